// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The maps of the wall, and no program. */
#define AW_DEFINE_MAPS
#include "../../../bpf/maps.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";
