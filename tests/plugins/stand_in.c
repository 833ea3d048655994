/* What the regular bindings want of libnvinfer_plugin, and, for TensorRT 10, a plugin registry that only keeps a list.
 *
 * The bindings come from PyPI, their libraries do not. TensorRT 11's run on TensorRT-RTX's library; TensorRT 10's
 * registry has other methods before the ones in use (those of plugins before V3), so it gets its own here: an object
 * whose first word points to the addresses of its methods, in the order of NvInferRuntimeCommon.h.
 */
#include <stddef.h>
#include <stdint.h>

int initLibNvInferPlugins(void *logger, char const *space)
{
    return 1;
}

#ifdef REGISTRY
enum { REGISTER = 12, ALL = 13, METHODS = 18, ROOM = 8 };

static void *creators[ROOM];
static int32_t count;

static uint8_t take(void *self, void *creator, char const *space)
{
    if (count == ROOM)
        return 0;
    creators[count++] = creator;
    return 1;
}

static void **all(void const *self, int32_t *number)
{
    *number = count;
    return creators;
}

static void *methods[METHODS];
static void **registry = methods;

void *getPluginRegistry(void)
{
    methods[REGISTER] = (void *)take;
    methods[ALL] = (void *)all;
    return &registry;
}
#endif
