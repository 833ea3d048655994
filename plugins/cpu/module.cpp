// An empty Python module, so that setuptools builds this library and wheels contain it. Python code loads the library
// with ctypes and never imports it; a build without Python's headers lacks the module and is complete otherwise.
#if __has_include(<Python.h>)
#include <Python.h>

static PyModuleDef_Slot slots[] = {{0, nullptr}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "C functions of the native decoder, for ctypes.", 0, nullptr, slots, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__native() { return PyModuleDef_Init(&definition); }
#endif
