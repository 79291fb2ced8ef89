// A simulated process that is killed leaves its objects behind, as a real one does; leak checkers must not count them.
// Leaks of the store itself show in the tests that run it on a real reactor (native/replica).
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
