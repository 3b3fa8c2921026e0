r"""Answers that are work without end, within 512 characters: those that no worker is given, and those that only a kill
ends."""

REFUSED = (
    r"9^{9^{9}}",
    r"9^{9^{9^{9^{9}}}}",
    r"x^{x^{x}}",
    r"2^{99999999}",
    r"2^{x+99999999}",
    r"2^{\frac{1}{0.00001}}",
    r"10^{100}^{100}",
    r"(x+y+z+w+1)^{60}",
    "".join(f"(x+{k})" for k in range(2, 20)) + "(y+z)",
    r"(x+1)^{100}(y+1)^{100}",
    "(" * 200 + "x" + ")" * 200,
    r"\sqrt{" * 60 + "x" + "}" * 60,
    "+".join(["x"] * 200),
    "99999!",
    r"x^{\frac{1}{9973}}",
    r"\sqrt[997]{x}",
)


def slow_pair(k: int) -> tuple[str, str]:
    """Equal, and within the grammar; to prove it takes minutes. Another pair for each k."""
    inner = r"\sqrt[3]{2}+\sqrt{3}"
    left = rf"\sqrt[5]{{{inner}+\sqrt{{{k + 5}}}}}\cdot\sqrt[5]{{{inner}-\sqrt{{{k + 5}}}}}"
    return left, rf"\sqrt[5]{{({inner})^2-{k + 5}}}"
