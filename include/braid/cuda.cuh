#pragma once

/// braid for NVIDIA GPUs: everything of <braid/braid.hpp>, and braid::cuda. For .cu files, nvcc 13 or later with
/// -std=c++20 --fmad=false, sm_90 or later.

#include <braid/backend/cuda/kernel.cuh>
#include <braid/braid.hpp>

#include <braid/backend/cuda.cuh>
#include <braid/backend/cuda/budget_measures.cuh>
#include <braid/backend/cuda/grouped_tensor.cuh>
#include <braid/backend/cuda/merge_channels.cuh>
#include <braid/backend/cuda/merge_tensor.cuh>
#include <braid/backend/cuda/methods.cuh>
#include <braid/backend/cuda/tensor_measures.cuh>
#include <braid/engine/cuda/merge_on_devices.cuh>
