"""Reading answers: which one counts, what it means, and that no text makes it slow."""

import json
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from its_proxy.voting.answers import (
    MAX_ANSWER_CHARS,
    MAX_FINAL_LINE_CHARS,
    MAX_READ_CHARS,
    Answer,
    Form,
    after_reasoning,
    normal_form,
    proven_different,
    read_answer,
    same,
)

KINDS = ("boxed", "number", "final_line")


def written(text: str) -> Answer:
    return Answer(text, normal_form(text))


def text_of(text: str, kind: str) -> str | None:
    answer = read_answer(text, kind)
    return answer.text if answer else None


class TestTheLastBoxWins:
    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            (r"\boxed{1}, no, \boxed{2}", "2"),
            (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
            (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
            (r"\boxed{\text{a } b}", r"\text{a } b"),
            (r"\boxed{\boxed{5}}", "5"),
            (r"\fbox{7}", "7"),
            (r"\boxed 5 is it", "5"),
            (r"\boxed -12.5.", "-12.5"),
            (r"\boxed x", "x"),
            ("\\boxed{\n5\n}", "5"),
            (r"\boxed{3}, as asked for in \boxed format", "3"),
            (r"\boxedly{9}", None),
            (r"\boxed{}", None),
            (r"\boxed{?}", None),
            (r"\boxed{...}", None),
            ("nothing", None),
            ("", None),
        ],
    )
    def test_a_box_is_read_to_its_closing_brace(self, text, answer):
        assert text_of(text, "boxed") == answer

    def test_a_box_cut_off_abstains_and_is_not_replaced_by_an_earlier_one(self):
        assert text_of(r"\boxed{1} wait: \boxed{2", "boxed") is None

    def test_an_empty_last_box_abstains(self):
        assert text_of(r"\boxed{1} \boxed{}", "boxed") is None

    def test_512_characters_are_an_answer_and_one_more_is_not(self):
        assert text_of(r"\boxed{" + "x" * MAX_ANSWER_CHARS + "}", "boxed") == "x" * MAX_ANSWER_CHARS
        assert text_of(r"\boxed{" + "x" * (MAX_ANSWER_CHARS + 1) + "}", "boxed") is None


class TestReasoningIsNotRead:
    @pytest.mark.parametrize(
        ("opening", "closing"), [("<think>", "</think>"), ("<|begin_of_thought|>", "<|end_of_thought|>")]
    )
    def test_only_the_part_after_the_last_close_counts(self, opening, closing):
        text = rf"{opening}\boxed{{1}}{closing}\boxed{{2}}"
        assert text_of(text, "boxed") == "2"
        assert text_of(rf"\boxed{{1}}{closing} hmm {closing} \boxed{{3}}", "boxed") == "3"
        assert text_of(rf"{opening}\boxed{{1}}{closing} none", "boxed") is None

    @pytest.mark.parametrize("opening", ["<think>", "<|begin_of_thought|>"])
    def test_reasoning_that_never_ends_has_no_final_part(self, opening):
        assert after_reasoning(f"{opening} 5") is None
        assert all(read_answer(rf"{opening} the answer is: \boxed{{5}}", kind) is None for kind in KINDS)

    def test_text_without_reasoning_is_read_whole(self):
        assert after_reasoning("5") == "5"


class TestNumbersInText:
    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("2 + 2 = 4\n#### 4", "4"),
            ("#### 4\n#### 1,080\nand 7 more", "1,080"),
            ("#### $18.\n", "$18"),
            ("#### -3", "-3"),
            ("#### 2. Second step\nso it is 7", "7"),
            ("5 - 3 = 2.", "2"),
            ("5-3", "3"),
            ("x = -5", "-5"),
            ("x = \N{MINUS SIGN}5", "\N{MINUS SIGN}5"),
            ("-$5 of debt", "-$5"),
            ("10-$5", "$5"),
            ("- 5 apples", "5"),
            ("it costs $1,234.50.", "$1,234.50"),
            ("3/4 of a cup", "3/4"),
            (r"we get \frac{3}{4}", r"\frac{3}{4}"),
            ("1,2,3,", "3"),
            ("12,345,678.9", "12,345,678.9"),
            ("50%", "50%"),
            (r"\boxed{-5}", "-5"),
            ("so... .5", ".5"),
            ("No.5", "5"),
            ("H2O and x_2", None),
            ("none", None),
        ],
    )
    def test_the_marked_number_counts_and_else_the_last(self, text, answer):
        assert text_of(text, "number") == answer

    def test_every_gsm8k_solution_gives_its_marked_number(self, test_data: Path):
        rows = [json.loads(line) for line in (test_data / "gsm8k-train.jsonl").read_text().splitlines()]
        assert len(rows) == 7473
        for row in rows:
            gold = row["answer"].rpartition("####")[2].strip()
            expected = Answer(gold, Form("integer", str(int(gold.replace(",", "")))))
            assert read_answer(row["answer"], "number") == expected


class TestFinalLines:
    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("Some steps.\nThe answer is 42.", "42"),
            ("**Answer:** **B**", "B"),
            ("### Answer: 7", "7"),
            ("the answer is 5, but the answer is: 6", "6"),
            ("Answer:\n42\n\n", "42"),
            ("$$\n42\n$$", "42"),
            (r"The final answer is: $\boxed{\frac12}$.", r"\frac12"),
            ("- Paris", "Paris"),
            ("x" * MAX_FINAL_LINE_CHARS, "x" * MAX_FINAL_LINE_CHARS),
            ("x" * (MAX_FINAL_LINE_CHARS + 1), None),
            ("Answer: " + "x" * (MAX_FINAL_LINE_CHARS + 1), "x" * (MAX_FINAL_LINE_CHARS + 1)),
            ("the answer is", None),
            ("\n---\n", None),
        ],
    )
    def test_what_follows_the_lead_counts_and_else_a_short_line(self, text, answer):
        assert text_of(text, "final_line") == answer


class TestEqualValuesHaveEqualForms:
    @pytest.mark.parametrize(
        "spellings",
        [
            ["2", "2.0", "2.", "+2", "4/2", r"\frac{4}{2}", "x=2", r"\{2\}", "(2)", "2 dollars", "**2**"],
            [
                "1/2",
                "0.5",
                ".5",
                r"\frac12",
                r"\dfrac{1}{2}",
                r"\tfrac 12",
                r"\frac{1}2",
                r"\left(\frac{1}{2}\right)",
                "2/4",
            ],
            ["-3/8", r"-\frac{3}{8}", r"\frac{-3}{8}", "\N{MINUS SIGN}0.375", r"\( -\frac{3}{8} \)"],
            ["1234", "1,234", "$1,234", r"\$1,\!234", r"1{,}234", r"1\,234", "1,234.00"],
            ["9/5", r"1\frac{4}{5}", r"1 \frac{4}{5}", "1 4/5", "1.8"],
            [
                "5",
                r"5\text{ cm}",
                r"5\,\mathrm{cm}",
                r"15/3\mbox{ cm}^2",
                "5 km/h",
                "5 square feet",
                "5  square feet",
                "€5",
            ],
            ["90", r"90^\circ", r"90^{\circ}", "90°", r"90 \text{ degrees}"],
            [r"50\%", "50%", "50 percent", "50.0%"],
            ["A", "(A)", "A.", r"\text{A}", r"\textbf{(A)}", r"\text{(A) }"],
            ["(1,234)", r"\left( 1, 234 \right)", "(1.0, 468/2)", "(x,y) = (1,234)"],
            [r"\{1,2\}", r"\{2, 1, 1\}", r"\left\{ 2.0, 1 \right\}"],
            ["[1,2)", r"\left[1, \frac{4}{2}\right)", r"x \in [1,2)"],
            [r"(2,\infty)", r"(2, +\infty)", "(2,∞)"],
            [r"\emptyset", r"\varnothing", r"\{\}", "∅"],
            ["1,-2", "-2, 1"],
            ["East", r"\text{east}", " east."],
            [r"3\sqrt{5}", r"3 \sqrt 5", r"3\sqrt5"],
            ["52_8", "52_{8}"],
            [r"3 \pm 2\sqrt{2}", r"3\pm2\sqrt{2}"],
            [r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"],
        ],
    )
    def test_spellings_of_one_value(self, spellings):
        assert {normal_form(spelling) for spelling in spellings} == {normal_form(spellings[0])}

    @given(st.fractions(max_denominator=10**6))
    def test_a_fraction_equals_its_decimals_where_they_end(self, value):
        spelled = f"{value.numerator}/{value.denominator}"
        assert normal_form(spelled) == normal_form(rf"\frac{{{value.numerator}}}{{{value.denominator}}}")
        assert normal_form(spelled).value == str(value)

    @given(st.integers(-(10**12), 10**12), st.integers(0, 6))
    def test_a_decimal_equals_its_fraction(self, digits, places):
        decimal = f"{'-' if digits < 0 else ''}{abs(digits) // 10**places}.{abs(digits) % 10**places:0{places}d}"
        assert normal_form(decimal) == normal_form(f"{digits}/{10**places}")


class TestWhatIsProven:
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("1", "2"),
            ("1/2", "0.51"),
            ("A", "B"),
            ("(1,2)", "(2,1)"),
            ("[1,2]", "[1,2)"),
            ("(1,2)", "12"),
            ("1", r"\infty"),
        ],
    )
    def test_exact_forms_that_differ_are_proven_different(self, first, second):
        assert proven_different(written(first), written(second))
        assert not same(written(first), written(second))

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("50%", "0.5"),
            ("50%", "50"),
            ("0.333...", "1/3"),
            (r"\approx 3.14", "3.14"),
            ("x+1", "1+x"),
            (r"\sqrt{4}", "2"),
            ("2^{10}", "1024"),
            ("1e3", "1000"),
            ("1,-2", "(1,-2)"),
            (r"(1, \sqrt{4})", "(1,2)"),
            ("1" * 65, "2" * 65),
            ("5 million", "5"),
            ("10 pm", "10"),
            ("10 a.m.", "10"),
            ("3ab", "3"),
            ("5 m", "5"),
            ("2 or 3", "2"),
            ("1 2", "12"),
            ("1  2", "12"),
            ("1 \n 2", "12"),
            (r"2\frac{3}{2}", "3"),
            (r"\frac{1}{0}", "0"),
            ("x=1,y=2", "x=2,y=1"),
            ("((((((1,2))))))", "(1,2)"),
        ],
    )
    def test_what_may_yet_be_equal_is_neither_same_nor_different(self, first, second):
        assert not proven_different(written(first), written(second))
        assert not same(written(first), written(second))

    def test_an_answer_is_never_different_from_itself(self):
        assert not proven_different(written("2"), written("2.0"))


def test_math_500_gold_answers_are_all_read_back_from_a_box(test_data: Path):
    golds = [json.loads(line)["answer"] for line in (test_data / "math500-test.jsonl").read_text().splitlines()]
    answers = [read_answer(rf"Thus, the answer is $\boxed{{{gold}}}$.", "boxed") for gold in golds]
    assert [answer.text for answer in answers if answer] == golds
    assert len(golds) == 500
    assert sum(answer.is_exact for answer in answers if answer) >= 418


def hostile_texts() -> dict[str, str]:
    pieces = {
        "open boxes": r"\boxed{",
        "bare boxes": r"\boxed ",
        "false boxes": r"\boxedx",
        "braces": "{",
        "digits": "1",
        "numbers": "1 ",
        "commas": "1,",
        "dots": "1.",
        "slashes": "1/",
        "exponents": "1e",
        "groups": ",111",
        "fractions": r"\frac{",
        "cut fractions": r"\frac{1",
        "backslashes": "\\",
        "minuses": "-",
        "dollars": "$",
        "hashes": "#",
        "marks": "#### 1",
        "spaced marks": "####" + " " * 96,
        "leads": "answer ",
        "thoughts": "<think>",
        "thoughts ended": "</think>",
        "lines": "\n",
        "dashed lines": "-\n",
        "stars": "*",
        "words": "word ",
        "spaces": " ",
    }
    texts = {name: (piece * (100_000 // len(piece)) + "\nx") for name, piece in pieces.items()}
    bombs = {"nested": "(" * 250 + "1" + ")" * 250, "pairs": "(1," * 120 + "1" + ")" * 120, "list": "1," * 250 + "1"}
    bombs |= {
        "groups": r"\text{" * 70 + "}" * 70,
        "gaps": "1" + " " * 500 + "x",
        "power": "9**9**9**9",
        "long": "7" * 500,
    }
    return texts | {f"boxed {name}": rf"Answer: \boxed{{{bomb}}}" for name, bomb in bombs.items()}


@pytest.mark.parametrize("name", list(hostile_texts()))
def test_a_hostile_text_of_100_000_characters_takes_under_50_ms(name):
    text = hostile_texts()[name]
    for kind in KINDS:
        # The best of three: another process on the machine is not what is measured.
        best = min(_seconds(text, kind) for _ in range(3))
        assert best < 0.05, f"{kind} took {best * 1000:.0f} ms"


@pytest.mark.parametrize("kind", [*KINDS, "letter", "json"])
@pytest.mark.parametrize("piece", ["7 ", r"\boxed{", r"\boxed{1} ", "1,", '{"', r"\frac{1}{2} ", "answer is ", "```\n"])
def test_a_reply_of_eight_megabytes_takes_under_100_ms(piece, kind):
    text = piece * (8 * 2**20 // len(piece))
    best = min(_seconds(text, kind) for _ in range(3))
    assert best < 0.1, f"{best * 1000:.0f} ms"


@pytest.mark.parametrize("cut", range(12))
def test_of_a_very_long_text_the_end_is_read_and_never_half_a_number(cut):
    """Wherever the part that is read begins."""
    long = "x" * (MAX_READ_CHARS - cut)
    assert text_of(f"It is 12345678 {long}", "number") in (None, "12345678")
    assert text_of(rf"\boxed{{1}} 1 {long} {long} \boxed{{12345678}}", "boxed") == "12345678"
    assert text_of(f"{long} {long}\n#### 12345678", "number") == "12345678"


def _seconds(text: str, kind: str) -> float:
    started = process_time()
    read_answer(text, kind)
    return process_time() - started


@given(st.text(alphabet=r"\boxedfracintext{}()[]$,.#-+=%0123456789/ *_^" + "\n", max_size=200), st.sampled_from(KINDS))
def test_any_text_is_read_without_an_error_and_reads_the_same_again(text, kind):
    answer = read_answer(text, kind)
    assert answer == read_answer(text, kind)
    if answer is not None:
        assert answer.text == answer.text.strip() != ""
        assert normal_form(answer.text) == answer.form
