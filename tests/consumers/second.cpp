// A second file that includes everything: a function that isn't inline would be defined twice in this program.

#include <braid/braid.hpp>

char const* version_in_second_file() { return BRAID_VERSION_STRING; }

float rounded_in_second_file(float x) { return static_cast<float>(braid::bfloat16(x)); }
