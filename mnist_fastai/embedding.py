"""Features → positions in a plane by t-SNE (van der Maaten & Hinton 2008), scores of such a map, and new points in it.

openTSNE (Poličar et al. 2024) computes the map, with exact neighbours at every size and single-threaded linear algebra,
so that positions are bit-identical for any number of threads.
"""

from dataclasses import dataclass

import numpy as np
from openTSNE import TSNE, TSNEEmbedding
from openTSNE.affinity import PerplexityBasedNN
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from .errors import InputError

DIMENSIONS = 50  # after PCA; distances between images are sums of so many terms that the rest is mostly noise
PERPLEXITY = 30
EARLY_ITERATIONS = 250  # with early exaggeration, before those that are asked for
ITERATIONS = 500
MIN_POINTS = 10  # of a map
# Of features. Maps of float32 ones in [0, 1] times 1e-22 to 1e18 are equally trustworthy; beyond, positions are NaN.
# With a margin for one huge point among others, and for the sums of squares over all points that a PCA computes.
LARGEST = 1e12
SMALLEST_SPREAD = 1e-15  # of the feature that differs most
NEIGHBORS = 10  # of a point, by which a map is scored
MAX_SCORED = 5000  # points compared pair by pair: 25 million distances, 0.2 GB per array


@dataclass(frozen=True)
class Embedding:
    """A map and its input: all that `transform` needs, as arrays that can be saved."""

    features: np.ndarray  # float [n, d], as given
    positions: np.ndarray  # float64 [n, 2], their bounding box centred at 0
    perplexity: float


def embed(
    features: np.ndarray,  # float [n, d]
    *,
    perplexity: float | None = None,  # 30, or the highest that n allows
    iterations: int = ITERATIONS,
    seed: int = 0,
    threads: int = 1,  # affects the time only
) -> Embedding:
    """Place each point in a plane so that its neighbours stay its neighbours. The same seed gives the same positions.

    Raises InputError for features that are not finite, beyond ±1e12 or the same for every point, for fewer than ten
    points, and for a perplexity that does not fit the number of points.
    """
    n = len(features)
    if n < MIN_POINTS:
        raise InputError(f"a map takes {MIN_POINTS} points or more, and here are {n}; give more images")
    _check(features)
    if (np.ptp(features.astype(np.float64), axis=0) < SMALLEST_SPREAD).all():
        raise InputError(f"the features of all {n} images are the same; take another layer, or train the run anew")
    highest = (n - 1) / 3  # t-SNE looks at three times as many neighbours
    if perplexity is not None and not 1 <= perplexity <= highest:
        raise InputError(f"a perplexity of {perplexity:g} does not fit {n} images; give one from 1 to {highest:g}")
    perplexity = perplexity or min(PERPLEXITY, highest)
    tsne = TSNE(
        perplexity=perplexity, early_exaggeration_iter=EARLY_ITERATIONS, n_iter=iterations,
        neighbors="exact", n_jobs=threads, random_state=seed,
    )  # fmt: skip
    with threadpool_limits(1, "blas"):
        positions = np.asarray(tsne.fit(reduce(features)))
    return Embedding(features, positions - (positions.min(0) + positions.max(0)) / 2, perplexity)


def transform(embedding: Embedding, features: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Positions, float64 [m, 2], of new points in a map that stays as it is; each is placed by itself.

    Raises InputError where the features are not finite, beyond ±1e12, or not as many as the map's.
    """
    expected = embedding.features.shape[1]
    if features.shape[1] != expected:
        raise InputError(
            f"the map takes points of {expected} features, and not {features.shape[1]}; take those of the same layer"
        )
    _check(features)
    with threadpool_limits(1, "blas"):
        known, new = np.split(reduce(embedding.features, features), [len(embedding.features)])
        affinities = PerplexityBasedNN(known, embedding.perplexity, method="exact", n_jobs=threads)
        tsne = TSNEEmbedding(embedding.positions.copy(), affinities, n_jobs=threads, random_state=0)
        # from the median of 3 neighbours: with openTSNE's default of 25, points start between the classes, and 2% more
        # of the raw images end among those of another class
        return np.asarray(tsne.transform(new, k=3))


def _check(features: np.ndarray) -> None:
    """Raise InputError unless distances between the features can be computed."""
    largest = np.float64(LARGEST)  # which float16 would take for infinity
    fits = ((features >= -largest) & (features <= largest)).all(1)  # NaN is neither
    if not fits.all():
        bad = int((~fits).sum())
        raise InputError(
            f"the features of {bad} of {len(fits)} images are NaN, infinite or too large; train the run anew"
        )


def reduce(features: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """PCA to 50 dimensions where there are more, fitted to `features`, and applied to them and to `more`, stacked."""
    both = np.concatenate([features, *more])
    # PCA, the one here and the one that the map starts from, subtracts the square of the mean from the mean of the
    # squares: far from zero, float32 has nothing left of a small variance
    square = np.abs(features.astype(np.float64)).max() ** 2
    if np.finfo(np.float32).eps * square > 0.001 * features.var(0, dtype=np.float64).max():
        both = both.astype(np.float64) - features[0]
    if features.shape[1] > DIMENSIONS < len(features):
        return PCA(DIMENSIONS, random_state=0).fit(both[: len(features)]).transform(both)
    return both if both.shape[1] > 1 else np.pad(both, ((0, 0), (0, 1)))  # a plane has two dimensions


def score(features: np.ndarray, positions: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> dict:
    """How well a map preserves its features, from features [n, d], positions [n, 2] and labels, int [n].

    `knn_features` and `knn_map`: the leave-one-out accuracy, in [0, 1], of ten nearest neighbours in either space.
    `trustworthiness` (Venna & Kaski 2001), in [0, 1]: are neighbours in the map neighbours in the features as well?
    `silhouette` (Rousseeuw 1987), in [-1, 1], of the classes in the map, None where there is one class. The last two
    compare every pair of `scored` points: all, or 5,000 chosen by the seed.
    """
    n = len(labels)
    k = min(NEIGHBORS, (n - 1) // 2)
    index = np.random.default_rng(seed).permutation(n)[:MAX_SCORED]
    classes = len(np.unique(labels[index]))
    return {
        "knn_features": knn_accuracy(features, labels, k),
        "knn_map": knn_accuracy(positions, labels, k),
        "trustworthiness": float(trustworthiness(features[index], positions[index], n_neighbors=k)),
        "silhouette": float(silhouette_score(positions[index], labels[index])) if 1 < classes < len(index) else None,
        "neighbors": k,
        "scored": len(index),
    }


def knn_accuracy(points: np.ndarray, labels: np.ndarray, k: int = NEIGHBORS) -> float:
    """The leave-one-out accuracy, in [0, 1], of a majority vote among k nearest neighbours."""
    nearest = labels[NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)]
    votes = np.stack([(nearest == c).sum(1) for c in range(labels.max() + 1)], axis=1)
    return float((votes.argmax(1) == labels).mean())
