/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef AGENTWALL_PROBES_LOG2_H
#define AGENTWALL_PROBES_LOG2_H

#include <linux/types.h>

#define ilog2(x)	      (63 - __builtin_clzll(x))
#define roundup_pow_of_two(x) (1ULL << (64 - __builtin_clzll((x)-1)))

#endif /* AGENTWALL_PROBES_LOG2_H */
