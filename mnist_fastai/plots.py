"""Arrays in, matplotlib figures out; knows nothing of torch."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter


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
