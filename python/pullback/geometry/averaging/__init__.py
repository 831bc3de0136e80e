"""Global directions: what the local bases of many samples have in common.

`global_directions` averages local bases, in the latents or in the feature; `mean_metric` takes the
leading eigenvectors of the mean pullback metric.
"""

from pullback.geometry.averaging.means import global_directions
from pullback.geometry.averaging.metric import mean_metric
from pullback.geometry.averaging.result import GlobalDirections

__all__ = ["GlobalDirections", "global_directions", "mean_metric"]
