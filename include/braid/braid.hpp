#pragma once

/// braid: merges fine-tuned checkpoints of one base model, channel by channel. This header brings everything for the
/// CPU; for NVIDIA GPUs there will be <braid/cuda.cuh>. Single headers may be included alone.

#include <braid/backend/cpu.hpp>
#include <braid/cluster/agglomerative.hpp>
#include <braid/cluster/any.hpp>
#include <braid/cluster/exact.hpp>
#include <braid/cluster/kmeans.hpp>
#include <braid/cluster/random.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/consensus/sum.hpp>
#include <braid/consensus/ties.hpp>
#include <braid/consensus/weighted.hpp>
#include <braid/engine/run.hpp>
#include <braid/io/checkpoint.hpp>
#include <braid/io/checkpoint_writer.hpp>
#include <braid/io/grouped_checkpoint.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/method/global_magnitude_cuts.hpp>
#include <braid/method/greedy_soup.hpp>
#include <braid/method/make_tensor_method.hpp>
#include <braid/method/presets.hpp>
#include <braid/prune/dare.hpp>
#include <braid/prune/magnitude.hpp>
#include <braid/prune/magprune.hpp>
#include <braid/prune/mask.hpp>
#include <braid/prune/none.hpp>
#include <braid/prune/outliers.hpp>
#include <braid/residual/any.hpp>
#include <braid/residual/palette.hpp>
#include <braid/similarity/any.hpp>
#include <braid/similarity/balanced.hpp>
#include <braid/similarity/cosine.hpp>
#include <braid/similarity/euclidean.hpp>
#include <braid/similarity/sign.hpp>
