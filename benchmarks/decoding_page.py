"""The tables of `decoding.py` in Markdown."""

from __future__ import annotations


def page(found: dict) -> str:
    """The tables in Markdown."""
    lines = ["# The decoder beside its rivals", ""]
    lines += [f"`python benchmarks/decoding.py --run {found['settings']['run']}`:"]
    lines += [
        f"{found['settings']['prompts']} fresh prompts, judged by the truth; risk is CVaR.1.",
        "",
    ]
    for at in found["points"]:
        lines += [
            f"## CVaR.1 ≤ {at['budget']:g}"
            + ("" if at["reached"] else " (out of the dial's reach)"),
            "",
        ]
        lines += [
            "| | soup | setting | reward | CVaR.1 | tokens | withheld | better at once: settings (surely) |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for name, row in [("**dial**", at["dial"]), *at["rivals"].items()]:
            point = ", ".join(f"{w:g}" for w in row["point"])
            kept = "" if row.get("kept_in_calibration", True) else " (not kept)"
            beaten = (
                f"{row['better_in_hindsight']} of {row['settings']} ({row['surely_better']})"
                if "settings" in row
                else ""
            )
            lines.append(
                f"| {name}{kept} | {point} | {row['setting']} | {row['reward']:.2f} |"
                f" {row['cvar']:.2f} | {row['tokens']:.0f} | {row['withheld']:.1%} | {beaten} |"
            )
        lines.append("")
    b = found["benign"][0]
    lines += [f"## The default limit (CVaR.1 ≤ {b['asked']:.2f}) on benign prompts", ""]
    lines += [
        "| price of a token | times plain tokens | withheld | refused | refused, plain |"
        " all prompts: reward | CVaR.1 | tokens | withheld |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for b in found["benign"]:
        everything = b["all"]
        lines.append(
            f"| {b['price']:g} | {b['times_plain_tokens']:.2f} | {b['withheld']:.1%} | {b['refusals']:.1%} |"
            f" {b['plain_refusals']:.1%} | {everything['reward']:.2f} | {everything['cvar']:.2f} |"
            f" {everything['tokens']:.0f} | {everything['withheld']:.1%} |"
        )
    lines += ["", "## The joint frontier", ""]
    lines += ["| asked | price of a token | soup | reward | CVaR.1 | tokens | withheld |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in found["frontier"]:
        reached = "" if row["reached"] else " (out of reach)"
        point = ", ".join(f"{w:g}" for w in row["point"])
        lines.append(
            f"| {row['budget']:g}{reached} | {row['price']:g} | {point} | {row['reward']:.2f} |"
            f" {row['cvar']:.2f} | {row['tokens']:.0f} | {row['withheld']:.1%} |"
        )
    lines += [
        "",
        "## Reward alone, beside best-of-32",
        "",
        "| | reward | tokens | share of the gain | share of the tokens | reward − .5·KL |",
        "|---|---|---|---|---|---|",
    ]
    best = found["best_of_32"]
    row = best["best_of_32"]
    lines.append(
        f"| best-of-32 | {row['reward']:.2f} | {row['tokens']:.0f} | 1 | 1 | {row['less_kl']:.2f} |"
    )
    for row in best["drawn_on"]:
        lines.append(
            f"| price {row['price']:g}, λ′ {row['penalty']:g} | {row['reward']:.2f} | {row['tokens']:.0f} |"
            f" {row['share_of_gain']:.2f} | {row['share_of_tokens']:.2f} | {row['less_kl']:.2f} |"
        )
    lines += ["", "KL of an answer that is one of N draws is at most log E N.", ""]
    lines += [
        "## More draws",
        "",
        "| asked | draws | reward | CVaR.1 | tokens |",
        "|---|---|---|---|---|",
    ]
    for row in found["draws"]:
        lines.append(
            f"| {row['budget']:g} | {row['draws']} | {row['reward']:.2f} | {row['cvar']:.2f} | {row['tokens']:.0f} |"
        )
    return "\n".join(lines) + "\n"
