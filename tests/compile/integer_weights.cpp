// braid merges floating types; integers are carried.
// expect: 'storage_element

#include <braid/method/grouped_tensor.hpp>

int main() { return static_cast<int>(braid::grouped_tensor<int>{}.channels()); }
