// Log lines for people: one JSON object a line on standard error, levels error/warn/info/debug. Never on the I/O path.
// Safe from any thread (one write system call a line).
#pragma once

#include <string_view>

namespace holdfast {

enum class LogLevel { kError, kWarn, kInfo, kDebug };

// Lines above this level are dropped. Default kInfo; HOLDFAST_LOG=error|warn|info|debug sets it at first use.
void set_log_level(LogLevel level);
bool log_enabled(LogLevel level);
// Lines go to `sink` instead of standard error; nullptr: back. For programs that show them in their own way.
using LogSink = void (*)(LogLevel level, std::string_view component, std::string_view message);
void set_log_sink(LogSink sink);
// `component`: "engine", "store", ... `message`: what happened, to which object.
void log(LogLevel level, std::string_view component, std::string_view message);

inline void log_error(std::string_view component, std::string_view message) {
  log(LogLevel::kError, component, message);
}
inline void log_warn(std::string_view component, std::string_view message) { log(LogLevel::kWarn, component, message); }
inline void log_info(std::string_view component, std::string_view message) { log(LogLevel::kInfo, component, message); }

}  // namespace holdfast
