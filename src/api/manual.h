/*
 * aioloop.h - Python's asyncio event loop, for C. One header.
 */
