"""The grammar of a mix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mp13.errors import MixError
from mp13.mix import BASE, Mix, check_name, parse_mix, version_of

NAME_CHARACTERS = "ABCXYZabcxyz0189._-"
names = st.text(NAME_CHARACTERS, min_size=1, max_size=64).filter(lambda n: n != BASE and set(n) != {"."})
weights = st.floats(allow_nan=False, allow_infinity=False).map(lambda weight: weight + 0.0)  # -0 is read as 0
mixes = st.dictionaries(names, weights, max_size=5).map(lambda m: Mix(tuple(sorted(m.items()))))


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("base", ()),
        ("a", (("a", 1.0),)),
        ("a:0.7", (("a", 0.7),)),
        ("a:0.7+b:-0.3", (("a", 0.7), ("b", -0.3))),
        ("b+a", (("a", 1.0), ("b", 1.0))),
        ("  a:+.5 \n", (("a", 0.5),)),
        ("a:2.", (("a", 2.0),)),
        ("a:0", (("a", 0.0),)),
        ("Base", (("Base", 1.0),)),
        ("my.style_v2-final", (("my.style_v2-final", 1.0),)),
        ("-1:-1", (("-1", -1.0),)),
        ("n" * 64, (("n" * 64, 1.0),)),
    ],
)
def test_a_mix_names_its_members_and_their_weights(text: str, members: tuple[tuple[str, float], ...]) -> None:
    assert parse_mix(text) == Mix(members)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" base ", "base"),
        ("b:1.0+a:0.50", "a:0.5+b"),
        ("a:1", "a"),
        ("a:-0", "a:0"),
        ("a:0.0000001", "a:0.0000001"),
        ("a:100000000000000000000000", "a:100000000000000000000000"),
        ("B+a", "B+a"),
    ],
)
def test_the_canonical_form_sorts_by_name_and_leaves_out_what_says_nothing(text: str, canonical: str) -> None:
    assert str(parse_mix(text)) == canonical


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not a mix"),
        ("   ", "is not a mix"),
        ("+", "is not a mix"),
        ("a+", "is not a mix"),
        ("+a", "is not a mix"),
        ("a++b", "is not a mix"),
        ("a:", "is not a mix"),
        ("a:x", "at 'a:x'"),
        ("b+a:1e3", "at 'a:1e3'"),
        ("a:nan", "is not a mix"),
        ("a:0x1", "is not a mix"),
        ("a:--1", "is not a mix"),
        ("a:1_0", "is not a mix"),
        ("a:٣", "is not a mix"),
        ("a + b", "is not a mix"),
        ("a\n+b", "is not a mix"),
        ("a,b", "is not a mix"),
        ("a/b", "is not a mix"),
        ("é", "is not a mix"),
        ("n" * 65, "is not a mix"),
        ("a+a", "'a' twice"),
        ("a:0.5+b+a:0.5", "'a' twice"),
        ("base:0.5", "'base' stands alone"),
        ("a+base", "'base' stands alone"),
        ("base+base", "'base' stands alone"),
        ("..", "cannot name an adapter"),
        ("a+.", "cannot name an adapter"),
        ("a:" + "9" * 400, "too large"),
    ],
)
def test_a_malformed_mix_is_refused_with_the_part_that_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(MixError) as refusal:
        parse_mix(text)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(mixes)
def test_the_canonical_form_reads_back_as_the_same_mix(mix: Mix) -> None:
    assert parse_mix(str(mix)) == mix
    assert str(parse_mix(str(mix))) == str(mix)


@given(st.text("ab:+-.0123456789 e/" + "_\n", max_size=24) | st.text(max_size=12))
def test_any_text_is_a_mix_or_a_mix_error(text: str) -> None:
    try:
        mix = parse_mix(text)
    except MixError as refusal:
        assert repr(text.strip()) in str(refusal) or "cannot name an adapter" in str(refusal)
    else:
        assert list(mix.names) == sorted(set(mix.names))
        assert parse_mix(str(mix)) == mix


@pytest.mark.parametrize("name", ["a", "A-1", "..x", "_", "-", "0", "n" * 64])
def test_letters_digits_dots_lines_and_dashes_make_a_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "base", ".", "..", "...", "a b", "a/b", "a\\b", "a:b", "a+b", "a\n", "ä", "n" * 65]
)
def test_what_could_be_a_path_or_part_of_a_mix_cannot_be_a_name(name: str) -> None:
    with pytest.raises(MixError):
        check_name(name)


def test_a_member_gets_another_weight_comes_and_goes() -> None:
    mix = parse_mix("b:0.5")
    assert str(mix.weighted("b", 0.75)) == "b:0.75"
    assert str(mix.weighted("a", 1.0)) == "a+b:0.5"
    assert str(mix.weighted("b", None)) == "base"
    assert str(mix.weighted("a", None)) == "b:0.5"
    assert (mix.weight("b"), mix.weight("a")) == (0.5, None)


class TestVersionsOfAnAdapterInTraining:
    @pytest.mark.parametrize("text", ["a@120", "a@latest", "a@0:0.5+b", "a+a@120"])
    def test_a_mix_may_name_a_version(self, text: str) -> None:
        assert str(parse_mix(text)) == text

    @pytest.mark.parametrize("text", ["a@", "a@01", "a@newest", "a@-1", "@1", "a@1@2", "base@1"])
    def test_what_is_no_version_is_no_mix(self, text: str) -> None:
        with pytest.raises(MixError):
            parse_mix(text)

    def test_a_version_is_an_adapter_and_a_step(self) -> None:
        assert version_of("a@120") == ("a", 120)
        assert version_of("a@latest") == ("a", None)
        assert version_of("a") is None

    def test_nobody_else_may_take_such_a_name(self) -> None:
        with pytest.raises(MixError):
            check_name("a@120")
