#include "fuse/helper_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

namespace holdfast::fuse {

namespace {

using namespace std::chrono_literals;

constexpr int kAttempts = 100;
constexpr auto kAttemptPause = 20ms;

// Field 22 of /proc/PID/stat; empty when there is no such process, or it is a zombie.
std::string start_time_of(int pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::stringstream all;
  all << in.rdbuf();
  std::string text = all.str();
  std::size_t end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos) return "";
  std::istringstream fields(text.substr(end_of_name + 1));
  std::string field;
  for (int number = 3; fields >> field; ++number) {
    if (number == 3 && (field == "Z" || field == "X")) return "";
    if (number == 22) return field;
  }
  return "";
}

int spawn_plan(const HelperPlan& plan, pid_t& pid) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  for (int standard = 0; standard < kHelperDescriptor; ++standard) {
    posix_spawn_file_actions_addopen(&actions, standard, "/dev/null", O_RDWR, 0);
  }
  // Without the close-on-exec of the original. Where the two numbers are the same, dup2 clears it as well.
  if (plan.descriptor >= 0) posix_spawn_file_actions_adddup2(&actions, plan.descriptor, kHelperDescriptor);
  // Nothing else that this process has open, be it inherited: it may outlive whoever waits for its end.
  posix_spawn_file_actions_addclosefrom_np(&actions, kHelperDescriptor + (plan.descriptor >= 0 ? 1 : 0));
  posix_spawn_file_actions_addchdir_np(&actions, plan.directory.c_str());
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> arguments;
  for (const std::string& argument : plan.arguments) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  char* environment[] = {nullptr};
  int error_number = ::posix_spawn(&pid, plan.program.c_str(), &actions, &attributes, arguments.data(), environment);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return error_number;
}

}  // namespace

Result<int> start_helper(const HelperPlan& plan, const std::string& record) {
  pid_t pid = 0;
  int error_number = spawn_plan(plan, pid);
  if (error_number != 0) {
    return Error(ErrorCode::kInternal,
                 "cannot start " + plan.program + " for " + record + ": " + std::strerror(error_number));
  }
  std::ofstream out(record, std::ios::trunc);
  out << pid << ' ' << start_time_of(pid) << '\n';
  out.close();
  if (out) return pid;
  end_helper(pid);
  return Error(ErrorCode::kDiskIo, "cannot write " + record);
}

int find_helper(const std::string& record) {
  std::ifstream in(record);
  int pid = 0;
  std::string start_time;
  return in >> pid >> start_time && pid > 0 && start_time_of(pid) == start_time ? pid : 0;
}

void end_helper(int pid) {
  if (pid == 0) return;
  ::kill(pid, SIGKILL);
  // It may be somebody else's child: then this says so.
  for (int attempt = 0; attempt < kAttempts && ::waitpid(pid, nullptr, WNOHANG) == 0; ++attempt) {
    std::this_thread::sleep_for(kAttemptPause);
  }
}

}  // namespace holdfast::fuse
