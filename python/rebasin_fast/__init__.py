"""Exact linear assignment, and on top of it the merging of neural networks modulo permutation symmetries."""

from rebasin_fast import cuda
from rebasin_fast._version import __version__
from rebasin_fast.activation_matching import ActivationMatching, activation_matching
from rebasin_fast.architectures import mlp, resnet20, resnet50, vgg16
from rebasin_fast.batch import AssignmentBatch, solve_assignment_batch
from rebasin_fast.batch_norm import repair, reset_batch_norm
from rebasin_fast.block_matching import BlockMatching, match_blocks
from rebasin_fast.calibration import (
    Predictions,
    Reliability,
    ensemble,
    expected_calibration_error,
    predict,
    reliability_diagram,
)
from rebasin_fast.evaluate import BarrierResult, Evaluation, barrier, evaluate
from rebasin_fast.factored import solve_assignment_factored
from rebasin_fast.interpolate import interpolate
from rebasin_fast.lap import (
    Assignment,
    AssignmentStats,
    build_info,
    linear_sum_assignment,
    solve_assignment,
)
from rebasin_fast.merge_many import MergeMany, merge_many
from rebasin_fast.operator_sites import OperatorSite
from rebasin_fast.permute import (
    Permutation,
    apply_permutation,
    compose,
    identity_permutation,
    invert,
    random_permutation,
    validate_permutation,
)
from rebasin_fast.prove import Proof
from rebasin_fast.report import SpecReport
from rebasin_fast.scipy_patch import scipy_patched
from rebasin_fast.sites import ActivationSite, activation_sites
from rebasin_fast.spec import Axis, Member, PermutationSpec
from rebasin_fast.straight_through import StraightThrough, StraightThroughStats, straight_through
from rebasin_fast.symmetries import count_symmetries
from rebasin_fast.verify import Verification, verify_assignment
from rebasin_fast.weight_matcher import WeightMatcher
from rebasin_fast.weight_matching import WeightMatching, WeightMatchingStats, weight_matching
from rebasin_fast.wreath import WreathAssignment, solve_wreath_assignment

__all__ = [  # in the order of the data flow
    "PermutationSpec",
    "Axis",
    "Member",
    "SpecReport",
    "Proof",
    "mlp",
    "vgg16",
    "resnet20",
    "resnet50",
    "count_symmetries",
    "linear_sum_assignment",
    "solve_assignment",
    "solve_assignment_batch",
    "solve_assignment_factored",
    "solve_wreath_assignment",
    "verify_assignment",
    "Assignment",
    "AssignmentStats",
    "AssignmentBatch",
    "WreathAssignment",
    "Verification",
    "scipy_patched",
    "Permutation",
    "identity_permutation",
    "random_permutation",
    "validate_permutation",
    "apply_permutation",
    "invert",
    "compose",
    "weight_matching",
    "WeightMatcher",
    "WeightMatching",
    "WeightMatchingStats",
    "match_blocks",
    "BlockMatching",
    "activation_matching",
    "ActivationMatching",
    "activation_sites",
    "OperatorSite",
    "ActivationSite",
    "straight_through",
    "StraightThrough",
    "StraightThroughStats",
    "merge_many",
    "MergeMany",
    "interpolate",
    "reset_batch_norm",
    "repair",
    "evaluate",
    "Evaluation",
    "barrier",
    "BarrierResult",
    "predict",
    "ensemble",
    "Predictions",
    "reliability_diagram",
    "expected_calibration_error",
    "Reliability",
    "build_info",
    "cuda",
    "__version__",
]
