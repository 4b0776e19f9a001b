#ifndef HW_SOC_H
#define HW_SOC_H

#include "hw.h"

extern const struct hw hw_soc;

#endif
