#pragma once

/// The single-model methods on a device; `make_tensor_method<braid::cuda>` makes them by name.

#include <braid/backend/cuda/delta_methods.cuh>
#include <braid/backend/cuda/elementwise_methods.cuh>
#include <braid/backend/cuda/global_cuts.cuh>
#include <braid/backend/cuda/gram_methods.cuh>
#include <braid/backend/cuda/selecting_methods.cuh>
#include <braid/method/make_tensor_method.hpp>
