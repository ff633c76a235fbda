"""The cases: a recipe each, what it is there for, and how nearly braid must agree.

agree: "exact"  the same bits
       "ulp2"   two units in the last place of the largest number involved
       "mask"   like ulp2, given the stored masks
       "bf16"   no tensor farther from the float64 reference (root mean square) than mergekit's
       "fails"  mergekit itself stops with an exception, which is recorded
"""

import cases_arithmetic  # noqa: F401  each list adds to CASES, in this order
import cases_geometry  # noqa: F401
import cases_language  # noqa: F401
from case_builder import CASES  # noqa: F401
