"""Tags: the grammar of names and versions."""

from __future__ import annotations

import pytest

from tfrunner.errors import InvalidInput
from tfrunner.tags import Tag, is_tag_part, new_version


@pytest.mark.parametrize(
    "name",
    ["a", "0", "m1", "my-model", "my_model", "my.model", "1-2", "a" * 50, "a" * 63],
)
def test_names_within_the_rules_are_taken_as_they_are(name: str) -> None:
    """Letters, digits, and inside also dash, dot and underscore; up to 63 characters."""
    assert Tag(name).name == name
    assert is_tag_part(name)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "模型", "a!", "a" * 64, "_a", "a_", "-a", "a.", "a/b", "a:b", "."],
)
def test_names_outside_the_rules_are_refused(name: str) -> None:
    """Anything else is refused, as a name and as a version."""
    assert not is_tag_part(name)
    with pytest.raises(InvalidInput):
        Tag(name)
    with pytest.raises(InvalidInput):
        Tag("model", name)


def test_every_broken_rule_is_listed() -> None:
    """One message names all that is wrong."""
    with pytest.raises(InvalidInput) as caught:
        Tag("_" + "x !" * 30)
    message = str(caught.value)
    assert "91 characters" in message
    assert "' ' '!'" in message
    assert "begin and end" in message


def test_upper_case_is_lowered_with_a_warning() -> None:
    """The caller learns that the name is another one."""
    with pytest.warns(UserWarning, match="'MyModel' was changed to 'mymodel'"):
        tag = Tag.parse("MyModel:v1")
    assert tag == Tag("mymodel", "v1")


def test_parse_splits_name_and_version() -> None:
    """A tag's text gives the tag back; a tag is returned itself."""
    tag = Tag.parse("m:v1")
    assert (tag.name, tag.version, str(tag)) == ("m", "v1", "m:v1")
    assert Tag.parse("m") == Tag("m")
    assert str(Tag("m")) == "m"
    assert Tag.parse(tag) is tag


def test_a_trailing_colon_is_refused_with_a_hint() -> None:
    """`m:` most likely means the newest version."""
    with pytest.raises(InvalidInput, match="m:latest"):
        Tag.parse("m:")


@pytest.mark.parametrize("value", [None, 3, b"m"], ids=["None", "int", "bytes"])
def test_what_is_no_text_is_no_tag(value: object) -> None:
    """Other types are refused by name."""
    with pytest.raises(InvalidInput, match=type(value).__name__):
        Tag.parse(value)  # type: ignore[arg-type]


def test_tags_order_by_name_then_version() -> None:
    """No version comes first."""
    tags = [Tag("b"), Tag("a", "2"), Tag("a", "10"), Tag("a")]
    assert [str(tag) for tag in sorted(tags)] == ["a", "a:10", "a:2", "b"]


def test_made_up_versions_have_sixteen_characters_and_differ() -> None:
    """They follow the rules of tags."""
    versions = {new_version() for _ in range(200)}
    assert len(versions) == 200
    assert all(len(version) == 16 and is_tag_part(version) for version in versions)
