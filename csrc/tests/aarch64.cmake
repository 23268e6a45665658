# Cross-builds the core and its tests for 64-bit ARM with Debian's compiler; they run under qemu.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)  # no ARM libraries are needed to run them
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
