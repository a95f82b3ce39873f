// The update rules of the tests' build: Lion alone. In csrc/rules/all.h it would be one more entry of the list.
#include "lion.h"

#define CLRFAST_RULES(X) X(Lion, lion)
