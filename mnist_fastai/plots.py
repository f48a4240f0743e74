"""Arrays in, matplotlib figures out; knows nothing of torch."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Ten colours for ten classes, told apart also by the colour-blind: Petroff, arXiv:2107.02270
COLORS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")


def curves(history: list[dict], title: str) -> Figure:
    """Loss (nats) and accuracy (%) by epoch, side by side. `history` is a run's: a dict of numbers an epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    loss, accuracy = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    loss.plot(epochs, [row["train_loss"] for row in history], "o-", color="#0072B2", label="training")
    loss.plot(epochs, [row["valid_loss"] for row in history], "s-", color="#D55E00", label="validation")
    loss.set(title="Loss", xlabel="epoch", ylabel="cross-entropy (nats)")
    loss.set_ylim(bottom=0)
    loss.legend()
    accuracy.plot(epochs, [100 * row["accuracy"] for row in history], "s-", color="#D55E00")
    accuracy.set(title="Validation accuracy", xlabel="epoch", ylabel="accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(decimals=1))
    if history:
        accuracy.annotate(
            f"{100 * history[-1]['accuracy']:.2f}%", (epochs[-1], 100 * history[-1]["accuracy"]),
            xytext=(0, -14), textcoords="offset points", ha="right",
        )  # fmt: skip
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return figure


def rows(results: list[tuple[str, list[float], float | None]], title: str) -> Figure:
    """Rows against accuracy: each run a dot, their mean a bar, the published value a diamond.

    `results` has a row's name, its runs' accuracies in [0, 1], and what was published or None, first row on top. Rows
    below 90% have a panel of their own, so that the others can be told apart.
    """
    low = [r for r in results if sum(r[1]) / len(r[1]) < 0.9]
    high = [r for r in results if r not in low]
    panels = [part for part in (low, high) if part]
    figure = Figure(figsize=(9, 1.6 + 0.45 * len(results)), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[len(part) + 0.5 for part in panels])[:, 0]
    for axes, part in zip(grid, panels, strict=True):
        for y, (_, runs, published) in enumerate(part):
            percent = [100 * a for a in runs]
            mean = sum(percent) / len(percent)
            axes.plot(percent, [y] * len(runs), "o", color="#0072B2", alpha=0.55, ms=5, zorder=2)
            axes.plot([mean, mean], [y - 0.3, y + 0.3], color="#0072B2", lw=2.5, zorder=3)
            if published is not None:
                axes.plot([100 * published], [y], "D", mfc="none", mec="#D55E00", mew=1.8, ms=8, zorder=4)
        axes.set_yticks(range(len(part)), [name for name, *_ in part])
        axes.set_ylim(len(part) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=1))
        axes.grid(axis="x", alpha=0.3)
    grid[-1].set_xlabel("accuracy")
    marks = [
        Line2D([], [], marker="o", ls="", color="#0072B2", alpha=0.55, label="a run"),
        Line2D([], [], marker="|", ls="", color="#0072B2", ms=12, mew=2.5, label="mean"),
        Line2D([], [], marker="D", ls="", mfc="none", mec="#D55E00", mew=1.8, ms=8, label="published"),
    ]
    grid[-1].legend(handles=marks, loc="lower left")
    return figure
