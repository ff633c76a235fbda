#include "support/catch.hpp"
#include "support/models_on_disk.hpp"
#include "support/temp_dir.hpp"
#include "support/threads.hpp"

#include <braid/braid.hpp>
#include <braid/engine/run.hpp>

#include <atomic>
#include <future>
#include <set>
#include <thread>

using namespace braid_test;

namespace {

using method_type = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::any, braid::cluster::exact, braid::consensus::mean,
                                         braid::residual::any>;

/// Merges blocks somewhere else, as a device would: from a copy of their rows, while the engine goes on.
class distant_merger final : public braid::detail::tensor_merger {
 public:
  distant_merger(method_type const& method, braid::cpu const& be, std::size_t lanes) : here_(method, be), lanes_(lanes) {}

  [[nodiscard]] int groups() const override { return here_.groups(); }
  [[nodiscard]] bool allow_nonfinite() const override { return here_.allow_nonfinite(); }
  [[nodiscard]] std::vector<braid::residual_code> residuals() const override { return here_.residuals(); }
  [[nodiscard]] bool column_scales() const override { return here_.column_scales(); }
  [[nodiscard]] braid::storage_budget budget() const override { return here_.budget(); }
  [[nodiscard]] braid::measured_tensor measure(std::string_view tensor, std::vector<std::string> const& names, braid::tensor_channels const& source,
                                               braid::cluster::budget_histogram& curves) const override {
    return here_.measure(tensor, names, source, curves);
  }
  [[nodiscard]] bool measures(std::size_t experts) const override { return here_.measures(experts); }
  [[nodiscard]] braid::tensor_context prepare(std::string_view tensor, std::vector<std::string> const& names, braid::tensor_channels const& source,
                                              braid::measured_tensor const* measured) const override {
    return here_.prepare(tensor, names, source, measured);
  }
  [[nodiscard]] std::size_t most_blocks() const override { return lanes_; }

  [[nodiscard]] std::unique_ptr<braid::detail::block_under_way> merge(braid::tensor_context const& context, braid::channel_block const& block,
                                                                      braid::merged_block& out, braid::detail::channel_workspace&) const override {
    return std::make_unique<distant_block>(*this, context, block, out);
  }

  /// Most blocks that were under way at once.
  [[nodiscard]] std::size_t most_seen() const { return most_seen_; }

 private:
  class distant_block final : public braid::detail::block_under_way {
   public:
    distant_block(distant_merger const& merger, braid::tensor_context const& context, braid::channel_block const& block, braid::merged_block const& out)
        : merger_(merger), block_(block), out_(out) {
      std::size_t const now = ++merger_.under_way_;
      for (std::size_t seen = merger_.most_seen_; now > seen && !merger_.most_seen_.compare_exchange_weak(seen, now);) {}
      rows_.reserve(block.experts.size() + 1);
      auto const keep = [&](braid::channel_rows& m) {
        std::size_t const row = static_cast<std::size_t>(context.cols) * braid::size_of(m.type);
        auto& rows = rows_.emplace_back(static_cast<std::size_t>(block.rows) * row);
        for (index_t r = 0; r < block.rows; ++r) { std::memcpy(rows.data() + static_cast<std::size_t>(r) * row, m.row(r), row); }
        m = {rows.data(), m.type, static_cast<index_t>(row)};
      };
      keep(block_.base);
      for (auto& e : block_.experts) { keep(e); }
      out_.residual = &residual_;
      done_ = std::async(std::launch::async, [this, &context] {
        std::this_thread::sleep_for(std::chrono::microseconds(block_.first * 7919 % 300));  // some take longer
        braid::detail::channel_workspace work;
        (void)merger_.here_.merge(context, block_, out_, work);
      });
    }
    ~distant_block() override {
      if (done_.valid()) { done_.wait(); }
      --merger_.under_way_;
    }
    void wait() override { done_.wait(); }
    void collect(braid::merged_block& out) override {
      done_.get();
      *out.residual = residual_;
      out.extra_rows = out_.extra_rows;
      out.similarity = out_.similarity;
      out.compared = out_.compared;
    }

   private:
    distant_merger const& merger_;
    braid::channel_block block_;
    braid::merged_block out_;
    braid::residual_block residual_;
    std::vector<std::vector<std::byte>> rows_;
    std::future<void> done_;
  };

  braid::detail::method_merger<method_type> here_;
  std::size_t lanes_;
  mutable std::atomic<std::size_t> under_way_{0};
  mutable std::atomic<std::size_t> most_seen_{0};
};

struct opened_family {
  temp_dir dir;
  braid::checkpoint base;
  std::vector<braid::checkpoint> experts;

  explicit opened_family(disk_family const& d) : base((d.write(dir.path()), dir.path() / "base")) {
    for (auto const& name : d.names) { experts.emplace_back(dir.path() / name, name); }
  }
};

/// The files of the result, or what went wrong.
template <class Merger>
std::map<std::string, std::string> result_of(opened_family const& f, method_type const& method, braid::cpu const& be, Merger const& merger,
                                             braid::index_t block_rows, std::filesystem::path const& out) {
  std::vector<std::string> names;
  for (auto const& e : f.experts) { names.push_back(e.name()); }
  braid::merge_plan const plan = braid::plan_merge(f.base, f.experts, names, {}, std::nullopt);
  braid::grouped_description description;
  description.method = "channel_merge";
  description.recipe = braid::detail::recipe_json(method.settings());
  braid::detail::job_options job;
  job.max_shard_bytes = 6000;
  job.block_rows = block_rows;
  try {
    (void)braid::detail::merge_job(be, merger, f.base, f.experts, names, plan, job).run(out, std::move(description));
  } catch (std::exception const& e) { return {{"what", e.what()}}; }
  return contents(out);
}

}  // namespace

TEST_CASE("blocks that something else merges meanwhile give the same files, and no more are under way than it can take") {
  allow_many_threads();
  random_source random(621);
  for (int round = 0; round < 24; ++round) {
    disk_family d = random_disk_family(random, random.between(2, 4), {dtype::bf16, dtype::f16, dtype::f32});
    d.add("model.layers.2.mlp.up_proj.weight", dtype::bf16, {random.between(30, 90), 24}, random, true);
    opened_family const models(d);
    method_type::options o;
    o.groups = random.between(1, 3);
    if (round % 3 == 1) { o.residual = braid::residual::sign_bits<1>{}; }
    if (round % 3 == 2) { o.similarity = braid::similarity::balanced{}; }  // measures tensors first
    method_type const method(o);
    braid::cpu const be(random.between(1, 4));
    auto const rows = static_cast<index_t>(random.between(1, 9));
    auto const expected = result_of(models, method, be, braid::detail::method_merger<method_type>(method, be), rows, models.dir.path() / "here");
    REQUIRE(expected.count("what") == 0);
    auto const lanes = static_cast<std::size_t>(random.between(1, 12));
    distant_merger const distant(method, be, lanes);
    CHECK(result_of(models, method, be, distant, random.between(1, 9), models.dir.path() / "distant") == expected);
    CHECK(distant.most_seen() <= lanes);
  }
}

TEST_CASE("of several tensors that are not finite the first is named, whatever the threads and wherever blocks are merged") {
  allow_many_threads();
  random_source random(622);
  disk_family d = random_disk_family(random, 3);
  for (char const* name : {"model.layers.0.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.experts.gate_up_proj"}) {
    for (auto& e : d.experts) {
      auto& t = *find(e, name);
      t.data[t.data.size() - 1] = std::byte{0x7F};
      t.data[t.data.size() - 2] = std::byte{0xFF};
    }
  }
  opened_family const models(d);
  method_type const method({.groups = 2});
  std::set<std::string> said;
  for (int round = 0; round < 30; ++round) {
    braid::cpu const be(1 + round % 4);
    auto const out = models.dir.path() / "out";
    distant_merger const distant(method, be, 4);
    auto const result = round % 2 == 0 ? result_of(models, method, be, distant, 1, out)
                                       : result_of(models, method, be, braid::detail::method_merger<method_type>(method, be), 1, out);
    REQUIRE(result.count("what") == 1);
    CHECK(!std::filesystem::exists(out));
    said.insert(result.at("what"));
  }
  CHECK(said.size() == 1);
}
