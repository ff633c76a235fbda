#include "single_models.hpp"

#include <braid/method/greedy_soup.hpp>
#include <braid/method/make_tensor_method.hpp>

namespace zoo {
namespace {

using braid::method_parameters;

struct method {
  char const* name;
  bool random = false;
  bool pairwise = false;  ///< takes two models, or a base and one model
};

constexpr method methods[] = {{"linear"},
                              {"task_arithmetic"},
                              {"ties"},
                              {"dare_linear", true},
                              {"dare_ties", true},
                              {"breadcrumbs"},
                              {"breadcrumbs_ties"},
                              {"della_linear", true},
                              {"della", true},
                              {"slerp", false, true},
                              {"nuslerp", false, true},
                              {"multislerp"},
                              {"karcher"},
                              {"model_stock"},
                              {"sce"},
                              {"nearswap", false, true},
                              {"arcee_fusion", false, true},
                              {"ram"},
                              {"ramplus_tl"}};

braid::channel_rows rows_of(std::vector<bfloat16> const& w, index_t cols) {
  return {reinterpret_cast<std::byte const*>(w.data()), braid::dtype::bf16, cols * static_cast<index_t>(sizeof(bfloat16))};
}

/// Of the parameters that the method knows, those that this comparison sets.
method_parameters parameters_for(braid::method_info const& info, std::size_t models, double share) {
  method_parameters p;
  for (auto const& known : info.parameters) {
    if (known.name == "weight") { p.of_tensor["weight"] = info.name == "linear" ? 1.0 : 1.0 / static_cast<double>(models); }
    if (known.name == "density") { p.of_tensor["density"] = 0.7; }
    if (known.name == "t") { p.of_tensor["t"] = info.name == "nearswap" ? 0.01 : share; }
  }
  if (info.name == "nuslerp") { p.of_model["weight"] = {1.0 - share, share}; }
  return p;
}

/// One tensor of the one model, in float32.
class merger {
 public:
  merger(method const& m, std::uint64_t seed)
      : what_(m), method_(braid::make_tensor_method<braid::cpu>(m.name, {.seed = seed})) {}

  [[nodiscard]] std::vector<float> operator()(merged_tensor const& t, std::vector<std::string> const& names) const {
    if (!what_.pairwise) {
      std::vector<braid::channel_rows> models;
      for (auto const& e : t.experts) { models.push_back(rows_of(e, t.cols)); }
      return merged(t, names, rows_of(t.base, t.cols), models, 1.0);
    }
    // The result so far is one of the two, in float32; its share is that of the experts in it.
    std::vector<float> so_far = widened(t.experts[0]);
    for (std::size_t e = 1; e < t.experts.size(); ++e) {
      braid::channel_rows const first{reinterpret_cast<std::byte const*>(so_far.data()), braid::dtype::f32,
                                      t.cols * static_cast<index_t>(sizeof(float))};
      braid::channel_rows const next = rows_of(t.experts[e], t.cols);
      double const share = 1.0 / static_cast<double>(e + 1);
      bool const deltas = method_->info().name == "nuslerp";
      so_far = deltas ? merged(t, {"so far", names[e]}, rows_of(t.base, t.cols), {first, next}, share)
                      : merged(t, {names[e]}, first, {next}, share);
    }
    return so_far;
  }

 private:
  static std::vector<float> widened(std::vector<bfloat16> const& w) {
    std::vector<float> x;
    for (bfloat16 const v : w) { x.push_back(static_cast<float>(v)); }
    return x;
  }

  [[nodiscard]] std::vector<float> merged(merged_tensor const& t, std::vector<std::string> const& names, braid::channel_rows base,
                                          std::vector<braid::channel_rows> const& models, double share) const {
    braid::tensor_request request;
    request.tensor = t.name;
    request.models = names;
    request.inputs.channels = t.rows;
    request.inputs.cols = t.cols;
    if (method_->info().base != braid::base_role::member) { request.inputs.base = base; }
    request.inputs.experts = models;
    request.inputs.out = braid::dtype::f32;
    request.parameters = parameters_for(method_->info(), models.size(), share);
    std::vector<float> out(t.base.size());
    method_->merge_into(be_, request, reinterpret_cast<std::byte*>(out.data()));
    return out;
  }

  method what_;
  std::unique_ptr<braid::tensor_method<braid::cpu>> method_;
  braid::cpu be_;
};

/// The one model in every expert's place, its distance from the base scaled.
rebuilt_zoo single_model(method const& m, zoo_tensors const& zoo, std::uint64_t seed, float lambda) {
  merger const merge(m, seed);
  rebuilt_zoo out;
  out.stored.kept = zoo.kept_bytes;
  for (merged_tensor const& t : zoo.merged) {
    auto const one = merge(t, zoo.names);
    std::vector<bfloat16> w(t.base.size());
    for (std::size_t i = 0; i < w.size(); ++i) {
      float const base = static_cast<float>(t.base[i]);
      w[i] = bfloat16(base + lambda * (one[i] - base));
    }
    out.stored.rows += w.size() * sizeof(bfloat16);
    out.weights.emplace_back(zoo.experts(), w);
  }
  return out;
}

/// Some of a zoo's experts in the place of all of them.
zoo_tensors only(zoo_tensors zoo, std::vector<std::size_t> const& members) {
  std::vector<std::string> names;
  for (std::size_t const e : members) { names.push_back(zoo.names[e]); }
  for (merged_tensor& t : zoo.merged) {
    std::vector<std::vector<bfloat16>> experts;
    for (std::size_t const e : members) { experts.push_back(t.experts[e]); }
    t.experts = std::move(experts);
  }
  zoo.names = std::move(names);
  return zoo;
}

/// The average of some experts, asked on all tasks.
outcome averaged(bench& b, std::vector<std::size_t> const& members, float lambda) {
  rebuilt_zoo average = single_model({"linear"}, only(b.tensors(), members), 0, lambda);
  std::size_t const experts = b.tensors().experts();
  for (auto& w : average.weights) { w.resize(experts, w.front()); }
  return b.rebuilt(average);
}

/// A soup of the experts that the prompts themselves choose: what is asked is what it was chosen by.
plan greedy_soup_plan(std::vector<float> const& sweep) {
  plan p{"one model", "greedy_soup", "greedy_soup", origin::rival, false, sweep, {}};
  auto const chosen = std::make_shared<std::vector<std::size_t>>();
  p.measure = [chosen](bench& b, std::uint64_t, float lambda) {
    if (chosen->empty()) {
      *chosen = braid::greedy_soup(b.tensors().experts(), [&](std::span<std::size_t const> members) {
                  return averaged(b, {members.begin(), members.end()}, 1.0f).mean();
                }).members;
    }
    return averaged(b, *chosen, lambda);
  };
  return p;
}

}  // namespace

std::vector<plan> single_model_plans(std::vector<float> const& sweep) {
  std::vector<plan> all;
  for (method const& m : methods) {
    plan p{"one model", m.name, m.name, origin::rival, m.random, sweep, {}};
    p.measure = [m](bench& b, std::uint64_t seed, float lambda) { return b.rebuilt(single_model(m, b.tensors(), seed, lambda)); };
    all.push_back(std::move(p));
    if (all.size() == 1) { all.push_back(greedy_soup_plan(sweep)); }  // beside the soup of all
  }
  return all;
}

}  // namespace zoo
