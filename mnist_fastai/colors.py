"""The colours of the classes, in figures and on pages."""

# Ten colours that the colour-blind tell apart as well (Petroff 2021, arXiv:2107.02270), in an order that gives digits
# that look alike, such as 3, 5 and 8, colours three times as far from each other as the published order
COLORS = (
    "#b9ac70", "#e76300", "#92dadd", "#a96b59", "#94a4a2", "#ffa90e", "#717581", "#832db6", "#3f90da", "#bd1f01",
)  # fmt: skip
