#pragma once

/// Decides, before anything is computed, what happens to every tensor of a merge, and finds what can't work.

#include <braid/engine/selection.hpp>
#include <braid/io/checkpoint.hpp>
#include <braid/io/grouped_layout.hpp>

#include <map>
#include <optional>
#include <set>

BRAID_NAMESPACE_BEGIN

/// One tensor of the merged checkpoint.
struct planned_tensor {
  std::string name;
  action what = action::keep;
  dtype out = dtype::f32;
  int axis = -1;                    ///< channel axis, see `channel_layout`
  std::vector<index_t> shape;       ///< with the most channels that an expert has
  std::vector<index_t> first_shape; ///< the first expert's; meaningless if it lacks the tensor
  bool in_first = true;             ///< whether the first expert has the tensor
  index_t channels = 0;             ///< most channels of an expert
  index_t cols = 0;                 ///< elements of a channel
  index_t transposed = 0;           ///< see `tensor_channels`
  tensor_meta const* base = nullptr;             ///< null unless needed
  std::vector<tensor_meta const*> experts;       ///< in name order; null where an expert lacks it
  std::vector<index_t> expert_channels;          ///< 0 where it lacks it

  /// Bytes of inputs that are read.
  [[nodiscard]] std::uint64_t input_bytes() const noexcept {
    std::uint64_t n = base != nullptr ? base->bytes : 0;
    if (what == action::from_base) { return n; }
    for (auto const* e : experts) { n += e != nullptr ? e->bytes : 0; }
    return n;
  }
};

/// What a whole merge will do. Refers to the checkpoints' metadata: valid while they live.
struct merge_plan {
  std::vector<planned_tensor> tensors;             ///< by falling element size, then by name
  std::map<std::string, std::string> tied;         ///< tensors stored once: alias, stored name
  std::vector<std::vector<std::string>> absent;    ///< per expert: tensors that its own directory doesn't store
  std::vector<std::string> notes;
};

namespace detail {

inline std::string shape_text(std::vector<index_t> const& shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) { s += (i == 0 ? "" : ", ") + std::to_string(shape[i]); }
  return s + "]";
}

/// Makes the plan, one tensor name after the other.
class planner {
 public:
  planner(checkpoint const& base, std::vector<checkpoint> const& experts, std::vector<std::string> const& names,
          selection const& rules, std::optional<dtype> out)
      : base_(base), experts_(experts), names_(names), rules_(rules), out_(out) {
    for (auto const& e : experts) {
      auto& list = stored_names_.emplace_back();
      for (auto const& t : e.tensors()) { list.push_back(t.name); }
    }
    for (auto const& t : base.tensors()) { base_names_.push_back(t.name); }
  }

  [[nodiscard]] merge_plan make() {
    plan_.absent.resize(experts_.size());
    std::set<std::string_view> all;
    for (auto const& list : stored_names_) { all.insert(list.begin(), list.end()); }
    std::size_t left_out = 0;
    for (auto const& t : base_.tensors()) {
      if (all.count(t.name) != 0) { continue; }
      decision const d = rules_.decide(t.name, t.shape, t.type);
      if (d.by_user && d.what == action::from_base) {
        all.insert(t.name);
      } else {
        ++left_out;
      }
    }
    if (left_out != 0) {
      plan_.notes.push_back(std::to_string(left_out) + " tensors of the base are in no expert and were left out");
    }
    for (std::string_view const name : all) {
      if (is_reserved_name(name)) {
        throw argument_error("tensor " + in_quotes(name) +
                             ": names that start with 'braid.' belong to the grouped format; are the experts themselves "
                             "a grouped checkpoint? Extract them first");
      }
      plan_tensor(name);
    }
    find_tied();
    std::stable_sort(plan_.tensors.begin(), plan_.tensors.end(), [](planned_tensor const& a, planned_tensor const& b) {
      return size_of(a.out) > size_of(b.out);
    });
    return std::move(plan_);
  }

 private:
  /// What a user calls an expert's tensor in a message.
  [[nodiscard]] std::string where(std::size_t expert, std::string_view tensor) const {
    return "expert '" + names_[expert] + "' (" + experts_[expert].path().string() + "), tensor " + in_quotes(tensor);
  }

  /// What a model's config says about tied embeddings; `otherwise` where it says nothing.
  [[nodiscard]] static bool ties_words(checkpoint const& model, bool otherwise) {
    auto const it = model.config().find("tie_word_embeddings");
    return it != model.config().end() && it->is_boolean() ? it->get<bool>() : otherwise;
  }

  /// The stored tensor that a missing one is tied to: of the same shape, in a model that may tie.
  [[nodiscard]] static tensor_meta const* tied_source(checkpoint const& model, std::string_view name,
                                                      std::vector<std::string_view> const& stored,
                                                      std::vector<index_t> const* shape) {
    if (!ties_words(model, true)) { return nullptr; }
    for (std::string_view const candidate : tie_candidates(name, stored)) {
      tensor_meta const* const t = model.find(candidate);
      if (t->shape.size() == shape->size() && t->shape.back() == shape->back()) { return t; }
    }
    return nullptr;
  }

  void plan_tensor(std::string_view name) {
    planned_tensor p;
    p.name = name;
    p.experts.resize(experts_.size(), nullptr);
    p.expert_channels.resize(experts_.size(), 0);
    tensor_meta const* reference = nullptr;
    std::size_t reference_expert = 0;
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      p.experts[e] = experts_[e].find(name);
      if (p.experts[e] == nullptr) {
        plan_.absent[e].emplace_back(name);
      } else if (reference == nullptr) {
        reference = p.experts[e];
        reference_expert = e;
      }
    }
    tensor_meta const* const in_base = base_.find(name);
    bool const base_only = reference == nullptr;
    if (base_only) { reference = in_base; }
    decision const d = rules_.decide(name, reference->shape, reference->type);
    p.what = d.what;

    if (p.what == action::from_base) {
      take_from_base(p, in_base);
      return;
    }
    resolve_missing(p, d, *reference);
    int const rank = static_cast<int>(reference->shape.size());
    p.axis = p.what == action::merge && rank >= 2 ? rules_.channel_axis(name, rank) : default_channel_axis(reference->shape.size());
    // Vectors of a vocabulary, such as a head's bias, may differ in length if the user keeps them: an element a channel.
    if (p.what == action::keep && d.by_user && rank == 1 && differ_in_shape(p)) { p.axis = 0; }
    check_shapes(p, d, *reference, reference_expert);
    p.out = output_type(p, *reference, reference_expert);
    if (p.what == action::merge) {
      p.base = in_base != nullptr ? in_base : tied_source(base_, name, base_names_, &reference->shape);
      if (p.base == nullptr) {
        throw shape_error("the base (" + base_.path().string() + ") has no tensor " + in_quotes(name) +
                          ", which is to be merged: give the model that the experts were trained from, or keep the "
                          "tensor (--keep '" + std::string(name) + "')");
      }
      if (p.base->shape != reference->shape) {
        throw shape_error("tensor " + in_quotes(name) + " is " + shape_text(p.base->shape) + " in the base (" +
                          base_.file_of(*p.base).string() + ") and " + shape_text(reference->shape) + " in expert '" +
                          names_[reference_expert] + "': give the model that the experts were trained from, or keep the tensor "
                          "(--keep '" + std::string(name) + "')");
      }
      if (!is_computable(p.base->type)) {
        throw shape_error("tensor " + in_quotes(name) + " is " + std::string(name_of(p.base->type)) + " in the base (" +
                          base_.file_of(*p.base).string() + "), which can't be merged: keep it (--keep '" +
                          std::string(name) + "')");
      }
    }
    plan_.tensors.push_back(std::move(p));
  }

  void take_from_base(planned_tensor& p, tensor_meta const* in_base) {
    if (in_base == nullptr) {
      throw argument_error("tensor " + in_quotes(p.name) + " is to be taken from the base (" + base_.path().string() +
                           "), which doesn't have it");
    }
    p.base = in_base;
    p.axis = default_channel_axis(in_base->shape.size());
    p.shape = p.first_shape = in_base->shape;
    channel_layout const layout(p.shape, p.axis);
    p.channels = layout.channels;
    p.cols = layout.row_elements;
    p.out = out_ && is_computable(in_base->type) ? *out_ : in_base->type;
    std::fill(p.expert_channels.begin(), p.expert_channels.end(), p.channels);
    // Every expert has it from now on.
    for (auto& list : plan_.absent) { std::erase(list, p.name); }
    plan_.tensors.push_back(std::move(p));
  }

  /// Ties, or complains about, tensors that some experts lack.
  void resolve_missing(planned_tensor& p, decision const& d, tensor_meta const& reference) {
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      if (p.experts[e] != nullptr) { continue; }
      p.experts[e] = tied_source(experts_[e], p.name, stored_names_[e], &reference.shape);
      if (p.experts[e] != nullptr || (p.what == action::keep && d.by_user)) { continue; }
      throw shape_error(where(e, p.name) + " is missing, but other experts have it: keep it for those (--keep '" + p.name +
                        "'), take it from the base for all (--from-base '" + p.name + "'), or repair the expert");
    }
  }

  void check_shapes(planned_tensor& p, decision const& d, tensor_meta const& reference, std::size_t reference_expert) {
    bool const may_grow = p.what == action::keep && (d.by_user || is_vocabulary(p.name));
    channel_layout const like(reference.shape, p.axis);
    p.cols = like.row_elements;
    p.transposed = like.transposed() ? like.stride : 0;
    p.shape = reference.shape;
    p.channels = like.channels;
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      tensor_meta const* const t = p.experts[e];
      if (t == nullptr) { continue; }
      index_t channels = like.channels;
      if (t->shape != reference.shape) {
        std::vector<index_t> grown = reference.shape;
        bool fits = may_grow && t->shape.size() == reference.shape.size();
        if (fits) {
          channels = channel_layout(t->shape, p.axis).channels;
          fits = resize_channels(grown, p.axis, channels) && grown == t->shape;
        }
        if (!fits) {
          throw shape_error(where(e, p.name) + " is " + shape_text(t->shape) + ", but " + shape_text(reference.shape) +
                            " in expert '" + names_[reference_expert] + "'" +
                            (p.what == action::merge ? ": experts of one base have equal shapes; leave this expert out, or take "
                                                       "the tensor from the base (--from-base '" + p.name + "')"
                                                     : ": only the number of rows may differ, in embeddings, heads and what you "
                                                       "--keep by pattern"));
        }
        if (channels > p.channels) {
          p.channels = channels;
          p.shape = t->shape;
        }
      }
      p.expert_channels[e] = channels;
    }
    // A pool can't tell a tensor without elements from one that isn't there.
    bool const some_empty = std::any_of(p.experts.begin(), p.experts.end(), [](auto const* t) { return t != nullptr && t->bytes == 0; });
    bool const some_missing = std::find(p.experts.begin(), p.experts.end(), nullptr) != p.experts.end();
    if (some_empty && (some_missing || differ_in_shape(p))) {
      throw shape_error("tensor " + in_quotes(p.name) + " has no elements in one expert and others elsewhere: take it from the "
                        "base for all (--from-base '" + p.name + "')");
    }
    p.in_first = p.experts[0] != nullptr;
    if (p.in_first) { p.first_shape = p.experts[0]->shape; }
  }

  [[nodiscard]] static bool differ_in_shape(planned_tensor const& p) {
    tensor_meta const* known = nullptr;
    for (auto const* t : p.experts) {
      if (t == nullptr) { continue; }
      if (known != nullptr && known->shape != t->shape) { return true; }
      known = t;
    }
    return false;
  }

  [[nodiscard]] dtype output_type(planned_tensor const& p, tensor_meta const& reference, std::size_t reference_expert) const {
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      tensor_meta const* const t = p.experts[e];
      if (t == nullptr || t->type == reference.type) { continue; }
      if (!is_computable(t->type) || !is_computable(reference.type)) {
        throw shape_error(where(e, p.name) + " is " + std::string(name_of(t->type)) + ", but " +
                          std::string(name_of(reference.type)) + " in expert '" + names_[reference_expert] +
                          "', and one of them can't be converted: take the tensor from the base (--from-base '" + p.name + "')");
      }
      if (!out_) {
        throw shape_error(where(e, p.name) + " is " + std::string(name_of(t->type)) + ", but " +
                          std::string(name_of(reference.type)) + " in expert '" + names_[reference_expert] +
                          "': say which type the result shall have (--dtype bf16, for example)");
      }
    }
    return out_ && is_computable(reference.type) ? *out_ : reference.type;
  }

  /// A kept tensor that is, in every expert, the same memory or the same bytes as another kept one is stored once,
  /// provided that the first expert's own model ties them: the checkpoint must open as that expert.
  void find_tied() {
    std::vector<std::string_view> names;
    for (auto const& p : plan_.tensors) { names.push_back(p.name); }
    std::vector<planned_tensor> stored;
    for (auto& p : plan_.tensors) {
      planned_tensor const* target = nullptr;
      // What another one is tied to must itself be stored.
      bool const is_target = std::any_of(plan_.tied.begin(), plan_.tied.end(), [&](auto const& t) { return t.second == p.name; });
      if (p.what == action::keep && p.in_first && !is_target) {
        for (std::string_view const candidate : tie_candidates(p.name, names)) {
          auto const it = std::find_if(plan_.tensors.begin(), plan_.tensors.end(),
                                       [&](planned_tensor const& q) { return q.name == candidate; });
          bool const missing_somewhere =
              std::any_of(plan_.absent.begin(), plan_.absent.end(), [&](auto const& list) {
                return std::find(list.begin(), list.end(), p.name) != list.end();
              });
          if (missing_somewhere && it->what == action::keep && plan_.tied.count(it->name) == 0 && same_everywhere(p, *it)) {
            target = &*it;
            break;
          }
        }
      }
      if (target != nullptr) { plan_.tied.emplace(p.name, target->name); }
    }
    for (auto& p : plan_.tensors) {
      if (plan_.tied.count(p.name) == 0) { stored.push_back(std::move(p)); }
    }
    plan_.tensors = std::move(stored);
    for (auto const& [alias, target] : plan_.tied) { plan_.notes.push_back(alias + " is tied to " + target + " and stored once"); }
  }

  [[nodiscard]] bool same_everywhere(planned_tensor const& a, planned_tensor const& b) const {
    // The first expert must not expect the alias in its own right.
    auto const& first_absent = plan_.absent[0];
    bool const stores_it = std::find(first_absent.begin(), first_absent.end(), a.name) == first_absent.end();
    if (stores_it && !ties_words(experts_[0], false)) { return false; }
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      tensor_meta const* const x = a.experts[e];
      tensor_meta const* const y = b.experts[e];
      if (x == y) { continue; }
      if (x == nullptr || y == nullptr || x->type != y->type || x->shape != y->shape) { return false; }
      auto const bytes_x = experts_[e].bytes(*x);
      auto const bytes_y = experts_[e].bytes(*y);
      if (!std::equal(bytes_x.begin(), bytes_x.end(), bytes_y.begin())) { return false; }
    }
    return a.out == b.out;
  }

  checkpoint const& base_;
  std::vector<checkpoint> const& experts_;
  std::vector<std::string> const& names_;
  selection const& rules_;
  std::optional<dtype> out_;
  std::vector<std::vector<std::string_view>> stored_names_;
  std::vector<std::string_view> base_names_;
  merge_plan plan_;
};

}  // namespace detail

/// Plans a merge of `experts` (in name order, with their names) over `base`.
/// @param out the type of all floating tensors of the result; none: each tensor's own, which must then agree
/// @throws shape_error, argument_error for what can't be merged, naming expert, tensor and a way out
[[nodiscard]] inline merge_plan plan_merge(checkpoint const& base, std::vector<checkpoint> const& experts,
                                           std::vector<std::string> const& names, selection const& rules,
                                           std::optional<dtype> out = std::nullopt) {
  return detail::planner(base, experts, names, rules, out).make();
}

BRAID_NAMESPACE_END
