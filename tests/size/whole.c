/*
 * whole.c - all of the library and nothing else. See tools/size.py.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"
