-- wrk's script: one request over and over, and a summary that a program can read.
local file = assert(io.open(os.getenv("BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
for line in os.getenv("HEADERS"):gmatch("[^\n]+") do
  local key, value = line:match("^(.-): (.*)$")
  wrk.headers[key] = value
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "\nRESULT {\"requests\": %d, \"seconds\": %f, \"p50\": %f, \"p99\": %f, \"mean\": %f, \"failed\": %d}\n",
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, latency.mean / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
