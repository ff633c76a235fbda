#pragma once

#include <braid/backend/cuda.cuh>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace braid_bench {

/// Times work on a device, by replays of a CUDA graph where the work has no host step.
class graph_timer {
 public:
  graph_timer() {
    braid::detail::check_cuda(cudaEventCreate(&begin_), "making an event");
    braid::detail::check_cuda(cudaEventCreate(&end_), "making an event");
  }
  graph_timer(graph_timer const&) = delete;
  graph_timer& operator=(graph_timer const&) = delete;
  ~graph_timer() {
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
  }

  /// Seconds of one of `steps` calls of `f(step)`: the median of `replays` of them all.
  /// @param in_graph  false: the calls are made again each time, between events
  template <class F>
  double operator()(braid::cuda const& be, int steps, int replays, F const& f, bool in_graph = true) {
    cudaStream_t const stream = be.stream();
    cudaGraphExec_t ready = nullptr;
    for (int s = 0; s < steps; ++s) { f(s); }  // loads and makes what has to be there
    be.synchronize();
    if (in_graph) {
      cudaGraph_t graph = nullptr;
      braid::detail::check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning a graph");
      for (int s = 0; s < steps; ++s) { f(s); }
      braid::detail::check_cuda(cudaStreamEndCapture(stream, &graph), "ending a graph");
      braid::detail::check_cuda(cudaGraphInstantiate(&ready, graph, 0), "making a graph");
      (void)cudaGraphDestroy(graph);
    }
    std::vector<float> milliseconds;
    for (int r = 0; r < replays + 2; ++r) {
      braid::detail::check_cuda(cudaEventRecord(begin_, stream), "timing");
      if (in_graph) {
        braid::detail::check_cuda(cudaGraphLaunch(ready, stream), "running a graph");
      } else {
        for (int s = 0; s < steps; ++s) { f(s); }
      }
      braid::detail::check_cuda(cudaEventRecord(end_, stream), "timing");
      be.synchronize();
      float once = 0.0f;
      braid::detail::check_cuda(cudaEventElapsedTime(&once, begin_, end_), "timing");
      if (r >= 2) { milliseconds.push_back(once); }
    }
    if (in_graph) { (void)cudaGraphExecDestroy(ready); }
    std::nth_element(milliseconds.begin(), milliseconds.begin() + replays / 2, milliseconds.end());
    return static_cast<double>(milliseconds[static_cast<std::size_t>(replays / 2)]) * 1e-3 / steps;
  }

 private:
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

}  // namespace braid_bench
