"""Arrays of features → positions in a plane by t-SNE (van der Maaten & Hinton 2008), and how much they keep.

openTSNE (Poličar et al. 2024) does the work, with exact neighbours at every size, and the linear algebra before it on
one thread: so the positions are the same to the last bit, whatever the number of threads.
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

DIMENSIONS = 50  # that PCA leaves; distances between images are sums of so many terms that the rest is mostly noise
PERPLEXITY = 30
EXAGGERATED = 250  # iterations of early exaggeration, before those that are asked for
ITERATIONS = 500
FEWEST = 10  # points of a map
NEIGHBORS = 10  # of a point, by which a map is judged
SCORED = 5000  # points at most whose every pair is looked at: 25 million distances, 0.2 GB an array


@dataclass(frozen=True)
class Map:
    """A map and what it was made of: all that `transform` needs, as arrays that can be saved."""

    features: np.ndarray  # float [n, d], as they were given
    positions: np.ndarray  # float64 [n, 2], the middle of their bounding box at 0
    perplexity: float


def embed(
    features: np.ndarray,  # float [n, d]
    *,
    perplexity: float | None = None,  # 30, or as high as so few points allow
    iterations: int = ITERATIONS,
    seed: int = 0,
    threads: int = 1,  # which change the time only
) -> Map:
    """Place each point in a plane so that its neighbours stay its neighbours. The same seed gives the same positions.

    Raises InputError for features that are not finite or are the same for every point, for fewer than ten points, and
    for a perplexity that so many points do not allow.
    """
    n = len(features)
    if n < FEWEST:
        raise InputError(f"a map takes {FEWEST} points or more, and here are {n}; give more images")
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(1).sum())
        raise InputError(f"the features of {bad} of {n} images are NaN or infinite; train the run anew")
    if (features == features[0]).all():
        raise InputError(f"the features of all {n} images are the same; take another layer, or train the run anew")
    highest = (n - 1) / 3  # t-SNE looks at three times as many neighbours
    if perplexity is not None and not 1 <= perplexity <= highest:
        raise InputError(f"a perplexity of {perplexity:g} does not go with {n} images; give one from 1 to {highest:g}")
    perplexity = perplexity or min(PERPLEXITY, highest)
    tsne = TSNE(
        perplexity=perplexity, early_exaggeration_iter=EXAGGERATED, n_iter=iterations,
        neighbors="exact", n_jobs=threads, random_state=seed,
    )  # fmt: skip
    with threadpool_limits(1, "blas"):
        positions = np.asarray(tsne.fit(reduce(features)))
    return Map(features, positions - (positions.min(0) + positions.max(0)) / 2, perplexity)


def transform(map: Map, features: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Positions, float64 [m, 2], of new points in a map that stays as it is; each is placed by itself.

    Raises InputError where they have not as many features as the map's, or features that are not finite.
    """
    if features.shape[1] != map.features.shape[1] or not np.isfinite(features).all():
        wanted = f"{map.features.shape[1]} features, all finite"
        raise InputError(f"the map takes points of {wanted}, and not {features.shape[1]}; take those of the same layer")
    with threadpool_limits(1, "blas"):
        known, new = np.split(reduce(map.features, features), [len(map.features)])
        affinities = PerplexityBasedNN(known, map.perplexity, method="exact", n_jobs=threads)
        there = TSNEEmbedding(map.positions.copy(), affinities, n_jobs=threads, random_state=0)
        # from the median of 3 neighbours: with openTSNE's 25, a point begins between the classes, and 2% of the raw
        # images more end among those of another
        return np.asarray(there.transform(new, k=3))


def reduce(features: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """PCA to 50 dimensions where there are more, fitted to `features` and applied to `more` as well, below them."""
    both = np.concatenate([features, *more])
    if features.shape[1] > DIMENSIONS < len(features):
        return PCA(DIMENSIONS, random_state=0).fit(features).transform(both)
    return both if both.shape[1] > 1 else np.pad(both, ((0, 0), (0, 1)))  # a plane has two dimensions


def scores(features: np.ndarray, positions: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> dict:
    """How much a map keeps of what its features say, from features [n, d], positions [n, 2] and labels, int [n].

    `knn_features` and `knn_map`: the part of the points, in [0, 1], whose ten nearest neighbours in either space have
    its class by majority, itself left out. `trustworthiness` (Venna & Kaski 2001), in [0, 1]: are neighbours in the map
    neighbours in the features as well? `silhouette` (Rousseeuw 1987), in [-1, 1], of the classes in the map, None where
    there is one class. The last two look at every pair, of `scored` points: all, or 5,000 that the seed chooses.
    """
    n = len(labels)
    k = min(NEIGHBORS, (n - 1) // 2)
    some = np.random.default_rng(seed).permutation(n)[:SCORED]
    classes = len(np.unique(labels[some]))
    return {
        "knn_features": knn_accuracy(features, labels, k),
        "knn_map": knn_accuracy(positions, labels, k),
        "trustworthiness": float(trustworthiness(features[some], positions[some], n_neighbors=k)),
        "silhouette": float(silhouette_score(positions[some], labels[some])) if 1 < classes < len(some) else None,
        "neighbors": k,
        "scored": len(some),
    }


def knn_accuracy(points: np.ndarray, labels: np.ndarray, k: int = NEIGHBORS) -> float:
    """The part of the points whose k nearest neighbours have its class by majority, in [0, 1], itself left out."""
    nearest = labels[NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)]
    votes = np.stack([(nearest == c).sum(1) for c in range(labels.max() + 1)], axis=1)
    return float((votes.argmax(1) == labels).mean())
