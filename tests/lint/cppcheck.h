#pragma once
/* For cppcheck alone: loops that are macros of libraries, told in a way it can parse. */

#define HASH_ITER(hh, head, el, tmp) for ((el) = (head); (el); (el) = (tmp))
#define DL_FOREACH(head, el) for ((el) = (head); (el); (el) = (el)->next)
#define LL_FOREACH(head, el) for ((el) = (head); (el); (el) = (el)->next)
#define DL_FOREACH_SAFE(head, el, tmp) for ((el) = (head); (el); (el) = (tmp))
#define LL_FOREACH_SAFE(head, el, tmp) for ((el) = (head); (el); (el) = (tmp))
#define json_object_object_foreach(o, k, v) for (char *k = (char *)(o), *v = k; k; k = v)
