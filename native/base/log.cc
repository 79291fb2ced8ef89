#include "base/log.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

#include <unistd.h>

namespace holdfast {

namespace {

constexpr std::string_view kLevelNames[] = {"error", "warn", "info", "debug"};

LogLevel level_from_environment() {
  const char* text = std::getenv("HOLDFAST_LOG");
  for (int level = 0; text && level < 4; ++level) {
    if (kLevelNames[level] == text) return static_cast<LogLevel>(level);
  }
  return LogLevel::kInfo;
}

std::atomic<LogLevel>& current_level() {
  static std::atomic<LogLevel> level{level_from_environment()};
  return level;
}

std::atomic<LogSink> current_sink{nullptr};

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      out += escaped;
    } else {
      out += c;
    }
  }
  out += '"';
}

}  // namespace

void set_log_level(LogLevel level) { current_level().store(level, std::memory_order_relaxed); }
void set_log_sink(LogSink sink) { current_sink.store(sink, std::memory_order_relaxed); }
bool log_enabled(LogLevel level) { return level <= current_level().load(std::memory_order_relaxed); }

void log(LogLevel level, std::string_view component, std::string_view message) {
  if (!log_enabled(level)) return;
  if (LogSink sink = current_sink.load(std::memory_order_relaxed)) return sink(level, component, message);
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  char time[96];
  std::snprintf(time, sizeof time, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", utc.tm_year + 1900, utc.tm_mon + 1,
                utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, now.tv_nsec / 1'000'000);
  std::string line = "{\"time\":\"";
  line += time;
  line += "\",\"level\":\"";
  line += kLevelNames[static_cast<int>(level)];
  line += "\",\"component\":";
  append_json_string(line, component);
  line += ",\"message\":";
  append_json_string(line, message);
  line += "}\n";
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;  // nowhere left to complain
}

}  // namespace holdfast
