"""The native decoder: all steps of a chunk on the CPU, written in C++ for the CPU's vector instructions."""
