#include "arguments.hpp"
#include "compare.hpp"
#include "text.hpp"

#include <iostream>

namespace program {
namespace {

enum diff_status : int { equal = 0, different = 1 };

/// Where an element is in a tensor in row-major order.
std::vector<braid::index_t> position_of(braid::index_t element, std::vector<braid::index_t> const& shape) {
  std::vector<braid::index_t> position(shape.size());
  for (std::size_t d = shape.size(); d-- > 0;) {
    position[d] = element % shape[d];
    element /= shape[d];
  }
  return position;
}

std::string type_and_shape(braid::tensor_meta const& t) {
  return std::string(braid::name_of(t.type)) + " " + shape_text(t.shape);
}

struct tally {
  std::size_t equal = 0;
  std::size_t differ = 0;
  std::size_t only_a = 0;
  std::size_t only_b = 0;
};

void compare_and_print(braid::checkpoint const& a, braid::tensor_meta const& x, braid::checkpoint const& b,
                       braid::tensor_meta const& y, tally& count) {
  std::string const name = printable(x.name);
  if (x.shape != y.shape) {
    ++count.differ;
    std::cout << name << ": " << type_and_shape(x) << " against " << type_and_shape(y) << '\n';
    return;
  }
  tensor_difference const d = compare(a, x, b, y);
  bool const same_type = x.type == y.type;
  if (same_type && d.differing == 0) {
    ++count.equal;
    return;
  }
  ++count.differ;
  std::cout << name << ": ";
  if (!same_type) { std::cout << braid::name_of(x.type) << " against " << braid::name_of(y.type) << ", "; }
  if (d.differing == 0) {
    std::cout << "equal values\n";
    return;
  }
  std::cout << d.differing << " of " << x.elements() << " elements differ, most by " << shortest(d.largest) << " at "
            << shape_text(position_of(d.at, x.shape)) << ": " << shortest(d.a) << " against " << shortest(d.b) << '\n';
}

void print_only(braid::checkpoint const& c, braid::tensor_meta const& t) {
  std::cout << printable(t.name) << ": only in " << printable(c.path().string()) << ", " << type_and_shape(t) << '\n';
}

}  // namespace

int diff(diff_arguments const& args) {
  braid::checkpoint const a(args.a);
  braid::checkpoint const b(args.b);
  tally count;
  auto x = a.tensors().begin();
  auto y = b.tensors().begin();
  while (x != a.tensors().end() || y != b.tensors().end()) {
    if (y == b.tensors().end() || (x != a.tensors().end() && x->name < y->name)) {
      ++count.only_a;
      print_only(a, *x++);
    } else if (x == a.tensors().end() || y->name < x->name) {
      ++count.only_b;
      print_only(b, *y++);
    } else {
      compare_and_print(a, *x++, b, *y++, count);
    }
  }
  std::cout << count.equal << (count.equal == 1 ? " tensor is equal" : " tensors are equal") << ", " << count.differ
            << (count.differ == 1 ? " differs" : " differ");
  if (count.only_a + count.only_b != 0) { std::cout << ", " << count.only_a + count.only_b << " in one only"; }
  std::cout << std::endl;
  return count.differ + count.only_a + count.only_b == 0 ? equal : different;
}

}  // namespace program
