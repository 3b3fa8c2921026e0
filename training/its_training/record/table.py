"""The power of a checkpoint's probes as a table on the terminal."""

from rich.table import Table

from its_training.record.power import Power


def power_table(power: Power) -> Table:
    """A row a reference; distances in nats a token."""
    table = Table(
        title=f"{power.n_probes} probes, {power.n_tokens} tokens; noise {power.noise:.4f}, bound {power.bound:.4f}",
        title_justify="left",
    )
    table.add_column("reference")
    for heading in ("nats a token", "x noise", "told apart"):
        table.add_column(heading, justify="right")
    for one in power.separations:
        ratio = "-" if one.ratio is None else f"{one.ratio:.1f}"
        table.add_row(one.name, f"{one.distance:.4f}", ratio, one.telling)
    return table
