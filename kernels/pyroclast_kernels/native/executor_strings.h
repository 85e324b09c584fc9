// Strings as GGUF files have them, each behind its length in 8 bytes: a vocabulary is a hundred
// thousand of them, which Python steps over and decodes one by one.
#pragma once

#include "executor_python.h"

// step_over(data, start, count), decode(data, count) and split_pairs(lines): strings.py says what
// they return.
extern PyMethodDef string_functions[];
