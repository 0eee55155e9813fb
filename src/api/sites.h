/*
 * sites.h - with AIOLOOP_DEBUG_SITES, what makes something says where.
 *
 * Object-like macros of the same names, so a function's address can still be taken and nothing changes its type.
 */
#ifndef AIOLOOP_API_SITES_H
#define AIOLOOP_API_SITES_H

#ifdef AIOLOOP_DEBUG_SITES
#define AIOLOOP_SITE(function) (aioloop_site(__FILE__, __LINE__), function)
#define aioloop_new_event_loop AIOLOOP_SITE(aioloop_new_event_loop)
#define aioloop_call_soon AIOLOOP_SITE(aioloop_call_soon)
#define aioloop_call_soon_context AIOLOOP_SITE(aioloop_call_soon_context)
#define aioloop_call_soon_threadsafe AIOLOOP_SITE(aioloop_call_soon_threadsafe)
#define aioloop_call_soon_threadsafe_context AIOLOOP_SITE(aioloop_call_soon_threadsafe_context)
#define aioloop_call_later AIOLOOP_SITE(aioloop_call_later)
#define aioloop_call_at AIOLOOP_SITE(aioloop_call_at)
#define aioloop_call_at_context AIOLOOP_SITE(aioloop_call_at_context)
#define aioloop_add_reader AIOLOOP_SITE(aioloop_add_reader)
#define aioloop_add_writer AIOLOOP_SITE(aioloop_add_writer)
#define aioloop_create_future AIOLOOP_SITE(aioloop_create_future)
#define aioloop_future_add_done_callback AIOLOOP_SITE(aioloop_future_add_done_callback)
#define aioloop_future_then AIOLOOP_SITE(aioloop_future_then)
#define aioloop_create_connection AIOLOOP_SITE(aioloop_create_connection)
#define aioloop_create_unix_connection AIOLOOP_SITE(aioloop_create_unix_connection)
#define aioloop_connect_accepted_socket AIOLOOP_SITE(aioloop_connect_accepted_socket)
#define aioloop_create_server AIOLOOP_SITE(aioloop_create_server)
#define aioloop_create_unix_server AIOLOOP_SITE(aioloop_create_unix_server)
#define aioloop_create_operation AIOLOOP_SITE(aioloop_create_operation)
#define aioloop_create_task AIOLOOP_SITE(aioloop_create_task)
#define aioloop_create_task_frame AIOLOOP_SITE(aioloop_create_task_frame)
#define aioloop_task_new AIOLOOP_SITE(aioloop_task_new)
#define aioloop_task_group_create_task AIOLOOP_SITE(aioloop_task_group_create_task)
#define aioloop_task_group_create_task_frame AIOLOOP_SITE(aioloop_task_group_create_task_frame)
#define aioloop_task_group_exit AIOLOOP_SITE(aioloop_task_group_exit)
#define aioloop_sleep AIOLOOP_SITE(aioloop_sleep)
#define aioloop_gather AIOLOOP_SITE(aioloop_gather)
#define aioloop_wait AIOLOOP_SITE(aioloop_wait)
#define aioloop_wait_for AIOLOOP_SITE(aioloop_wait_for)
#define aioloop_shield AIOLOOP_SITE(aioloop_shield)
#define aioloop_completed_next AIOLOOP_SITE(aioloop_completed_next)
#define aioloop_generator_new AIOLOOP_SITE(aioloop_generator_new)
#define aioloop_generator_new_frame AIOLOOP_SITE(aioloop_generator_new_frame)
#define aioloop_generator_anext AIOLOOP_SITE(aioloop_generator_anext)
#define aioloop_generator_asend AIOLOOP_SITE(aioloop_generator_asend)
#define aioloop_generator_athrow AIOLOOP_SITE(aioloop_generator_athrow)
#define aioloop_generator_aclose AIOLOOP_SITE(aioloop_generator_aclose)
#define aioloop_register_closer AIOLOOP_SITE(aioloop_register_closer)
#define aioloop_shutdown_asyncgens AIOLOOP_SITE(aioloop_shutdown_asyncgens)
#define aioloop_wrap_future AIOLOOP_SITE(aioloop_wrap_future)
#endif

#endif
