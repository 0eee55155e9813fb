/*
 * objects.c - an array as large as each object that lives as long as something of the user's. tools/size.py reads the arrays'
 * sizes from the object file, so this also tells those of a machine that cannot run it here.
 */
#define AIOLOOP_IMPLEMENTATION
#define AIOLOOP_STATIC
#include "aioloop.h"

#define OBJECT(name, type)                                                                         \
    extern char size_of_##name[sizeof(type)];                                                      \
    char size_of_##name[sizeof(type)]

OBJECT(loop, struct aioloop);
OBJECT(callback_or_timer, aiol_slot);
OBJECT(future, struct aioloop_future);
OBJECT(task, aiol_task);
OBJECT(context, struct aioloop_context);
OBJECT(watcher, aiol_watcher);
OBJECT(transport, struct aioloop_transport);
OBJECT(writer, aiol_writer);
OBJECT(connector, aiol_connector);
OBJECT(server, struct aioloop_server);
OBJECT(listener, aiol_listener);
OBJECT(operation, aiol_op);
OBJECT(address, aioloop_address);
OBJECT(handle, aioloop_handle);
OBJECT(timer_handle, aioloop_timer_handle);
#if AIOL_HAVE_REACTOR
OBJECT(reactor, aiol_reactor);
OBJECT(descriptor, aiol_fd);
#endif
