// All update rules: CLRFAST_RULES(X) expands to X(Rule, name) for each; Python calls a rule by its name.
//
// A new rule also needs its kernels, a file like cuda/sgd.cu. CLRFAST_RULES_HEADER replaces the list: the tests build the
// worked example of CONTRIBUTING.md so.
#pragma once

#ifdef CLRFAST_RULES_HEADER
#include CLRFAST_RULES_HEADER
#else
#include "rules/adamw.h"
#include "rules/sgd.h"

#define CLRFAST_RULES(X) X(Sgd, sgd) X(AdamW, adamw)
#endif
