"use strict";

// Draws the operations of openapi.json, each with a box to try it. No library, nothing remote.

function element(name, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(name), attributes);
  node.append(...children);
  return node;
}

function examplesOf(operation) {
  const content = operation.requestBody?.content ?? {};
  const json = content["application/json"] ?? {};
  const named = Object.entries(json.examples ?? {}).map(([name, each]) => [name, each.value]);
  return named.length ? named : [["empty", operation.requestBody ? {} : null]];
}

async function send(path, method, text, output) {
  output.className = "";
  output.textContent = "...";
  const started = performance.now();
  try {
    const options = { method: method.toUpperCase() };
    if (method === "post") {
      options.headers = { "Content-Type": "application/json" };
      options.body = text;
    }
    const reply = await fetch(path.slice(1), options);
    const took = (performance.now() - started).toFixed(1);
    output.className = reply.ok ? "" : "failed";
    output.textContent = `${reply.status} in ${took} ms\n${await reply.text()}`;
  } catch (error) {
    output.className = "failed";
    output.textContent = String(error);
  }
}

function tryIt(path, method, operation) {
  const output = element("pre");
  const box = element("textarea", { spellcheck: false });
  const examples = examplesOf(operation);
  const choice = element("select", { ariaLabel: "example" });
  examples.forEach(([name], index) => choice.append(new Option(name, index)));
  const fill = () => { box.value = JSON.stringify(examples[choice.value][1]); };
  choice.addEventListener("change", fill);
  fill();
  const button = element("button", { textContent: "Try it" });
  button.addEventListener("click", () => send(path, method, box.value, output));
  const input = method !== "post" ? [] : examples.length > 1 ? [choice, box] : [box];
  return element("div", {}, ...input, button, output);
}

function curl(path, method, operation) {
  const address = new URL(path.slice(1), document.baseURI).href;
  if (method !== "post") return `curl '${address}'`;
  const body = JSON.stringify(examplesOf(operation)[0][1]).replaceAll("'", "'\\''");
  return `curl '${address}' -H 'Content-Type: application/json' -d '${body}'`;
}

function draw(path, method, operation) {
  const summary = element("summary", {},
    element("b", { textContent: method.toUpperCase() }),
    element("code", { textContent: path }),
    element("span", { textContent: operation.summary ?? "" }));
  const details = element("details", {}, summary);
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    if (operation.description) details.append(element("pre", { textContent: operation.description }));
    details.append(element("pre", { textContent: curl(path, method, operation) }));
    details.append(tryIt(path, method, operation));
  });
  return details;
}

async function main() {
  const page = document.getElementById("operations");
  const reply = await fetch("openapi.json");
  const openapi = await reply.json();
  page.replaceChildren();
  const groups = new Map();
  for (const [path, methods] of Object.entries(openapi.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const group = operation.tags?.[0] ?? "other";
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(draw(path, method, operation));
    }
  }
  for (const [name, drawn] of groups) page.append(element("h2", { textContent: name }), ...drawn);
  const first = page.querySelector("details");
  if (first) first.open = true; // so that one sees what is inside
}

main().catch((error) => {
  document.getElementById("operations").textContent = `openapi.json could not be read: ${error}`;
});
