/* The file that holds the implementation; every other file of a program just includes aioloop.h. */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"
