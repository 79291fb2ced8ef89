#include "iscsi/scsi/operations.h"

#include "iscsi/scsi/handlers.h"

namespace holdfast::scsi {

namespace {

// clang-format off
using A = Access;
constexpr bool kChanges = true, kKeeps = false, kPassesUa = true, kReportsUa = false;
constexpr bool kSa = true, kNoSa = false;

// MODE SENSE is allowed whatever is reserved, where SPC-4 has it conflict with Exclusive Access: a host that cannot read
// the caching page takes the cache for write-through, and never flushes even when the reservation is gone.
constexpr Operation kOperations[] = {
    // name, opcode, service action, CDB size, access, changes blocks, unit attention, timeout, prepare, execute, usage
    {"TEST UNIT READY", 0x00, kNoSa, 0, 6, A::kAlways, kKeeps, kReportsUa, 10, prepare_nothing, execute_test_unit_ready,
     {0x00, 0, 0, 0, 0, 0x04}},
    {"REQUEST SENSE", 0x03, kNoSa, 0, 6, A::kAlways, kKeeps, kPassesUa, 10, prepare_nothing, execute_request_sense,
     {0x03, 0x01, 0, 0, 0xff, 0x04}},
    {"READ(6)", 0x08, kNoSa, 0, 6, A::kRead, kKeeps, kReportsUa, 60, prepare_read, execute_read,
     {0x08, 0x1f, 0xff, 0xff, 0xff, 0x04}},
    {"WRITE(6)", 0x0a, kNoSa, 0, 6, A::kWrite, kChanges, kReportsUa, 60, prepare_write, execute_write,
     {0x0a, 0x1f, 0xff, 0xff, 0xff, 0x04}},
    {"INQUIRY", 0x12, kNoSa, 0, 6, A::kAlways, kKeeps, kPassesUa, 10, prepare_nothing, execute_inquiry,
     {0x12, 0x01, 0xff, 0xff, 0xff, 0x04}},
    {"MODE SELECT(6)", 0x15, kNoSa, 0, 6, A::kWrite, kKeeps, kReportsUa, 10, prepare_mode_select, execute_mode_select,
     {0x15, 0x11, 0, 0, 0xff, 0x04}},
    {"RESERVE(6)", 0x16, kNoSa, 0, 6, A::kReserve6, kKeeps, kReportsUa, 10, prepare_nothing, execute_reserve6,
     {0x16, 0x10, 0, 0, 0, 0x04}},
    {"RELEASE(6)", 0x17, kNoSa, 0, 6, A::kRelease6, kKeeps, kReportsUa, 10, prepare_nothing, execute_release6,
     {0x17, 0x10, 0, 0, 0, 0x04}},
    {"MODE SENSE(6)", 0x1a, kNoSa, 0, 6, A::kAlways, kKeeps, kReportsUa, 10, prepare_nothing, execute_mode_sense,
     {0x1a, 0x08, 0xff, 0xff, 0xff, 0x04}},
    {"START STOP UNIT", 0x1b, kNoSa, 0, 6, A::kStartStop, kKeeps, kReportsUa, 60, prepare_start_stop, execute_start_stop,
     {0x1b, 0x01, 0, 0, 0xf7, 0x04}},
    {"SEND DIAGNOSTIC", 0x1d, kNoSa, 0, 6, A::kWrite, kKeeps, kReportsUa, 10, prepare_nothing, execute_send_diagnostic,
     {0x1d, 0xf7, 0, 0xff, 0xff, 0x04}},
    {"PREVENT ALLOW MEDIUM REMOVAL", 0x1e, kNoSa, 0, 6, A::kPrevent, kKeeps, kReportsUa, 10, prepare_nothing,
     execute_prevent_allow, {0x1e, 0, 0, 0, 0x03, 0x04}},
    {"READ CAPACITY(10)", 0x25, kNoSa, 0, 10, A::kAlways, kKeeps, kReportsUa, 10, prepare_nothing,
     execute_read_capacity_10, {0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0x04}},
    {"READ(10)", 0x28, kNoSa, 0, 10, A::kRead, kKeeps, kReportsUa, 60, prepare_read, execute_read,
     {0x28, 0xf8, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x04}},
    {"WRITE(10)", 0x2a, kNoSa, 0, 10, A::kWrite, kChanges, kReportsUa, 60, prepare_write, execute_write,
     {0x2a, 0xf8, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x04}},
    {"WRITE AND VERIFY(10)", 0x2e, kNoSa, 0, 10, A::kWrite, kChanges, kReportsUa, 60, prepare_write_and_verify,
     execute_write_and_verify, {0x2e, 0xf6, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x04}},
    {"VERIFY(10)", 0x2f, kNoSa, 0, 10, A::kRead, kKeeps, kReportsUa, 60, prepare_verify, execute_verify,
     {0x2f, 0xf6, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x04}},
    {"PRE-FETCH(10)", 0x34, kNoSa, 0, 10, A::kRead, kKeeps, kReportsUa, 60, prepare_prefetch, execute_prefetch,
     {0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x04}},
    {"SYNCHRONIZE CACHE(10)", 0x35, kNoSa, 0, 10, A::kWrite, kKeeps, kReportsUa, 60, prepare_synchronize_cache,
     execute_synchronize_cache, {0x35, 0x06, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x04}},
    {"READ DEFECT DATA(10)", 0x37, kNoSa, 0, 10, A::kAlways, kKeeps, kReportsUa, 10, prepare_nothing,
     execute_read_defect_data_10, {0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0x04}},
    {"WRITE SAME(10)", 0x41, kNoSa, 0, 10, A::kWrite, kChanges, kReportsUa, 120, prepare_write_same, execute_write_same,
     {0x41, 0xf8, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x04}},
    {"UNMAP", 0x42, kNoSa, 0, 10, A::kWrite, kChanges, kReportsUa, 120, prepare_unmap, execute_unmap,
     {0x42, 0x01, 0, 0, 0, 0, 0x1f, 0xff, 0xff, 0x04}},
    {"MODE SELECT(10)", 0x55, kNoSa, 0, 10, A::kWrite, kKeeps, kReportsUa, 10, prepare_mode_select,
     execute_mode_select, {0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04}},
    {"MODE SENSE(10)", 0x5a, kNoSa, 0, 10, A::kAlways, kKeeps, kReportsUa, 10, prepare_nothing, execute_mode_sense,
     {0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x04}},
    {"PERSISTENT RESERVE IN, READ KEYS", 0x5e, kSa, 0x00, 10, A::kPersistentIn, kKeeps, kReportsUa, 10,
     prepare_nothing, execute_persistent_reserve_in, {0x5e, 0x00, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04}},
    {"PERSISTENT RESERVE IN, READ RESERVATION", 0x5e, kSa, 0x01, 10, A::kPersistentIn, kKeeps, kReportsUa, 10,
     prepare_nothing, execute_persistent_reserve_in, {0x5e, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04}},
    {"PERSISTENT RESERVE IN, REPORT CAPABILITIES", 0x5e, kSa, 0x02, 10, A::kPersistentIn, kKeeps, kReportsUa, 10,
     prepare_nothing, execute_persistent_reserve_in, {0x5e, 0x02, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04}},
    {"PERSISTENT RESERVE IN, READ FULL STATUS", 0x5e, kSa, 0x03, 10, A::kPersistentIn, kKeeps, kReportsUa, 10,
     prepare_nothing, execute_persistent_reserve_in, {0x5e, 0x03, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04}},
#define HOLDFAST_PR_OUT(name, action)                                                                             \
  {"PERSISTENT RESERVE OUT, " name, 0x5f, kSa, action, 10, A::kPersistentOut, kKeeps, kReportsUa, 30,           \
   prepare_persistent_reserve_out, execute_persistent_reserve_out,                                                 \
   {0x5f, action, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x04}}
    HOLDFAST_PR_OUT("REGISTER", 0x00),
    HOLDFAST_PR_OUT("RESERVE", 0x01),
    HOLDFAST_PR_OUT("RELEASE", 0x02),
    HOLDFAST_PR_OUT("CLEAR", 0x03),
    HOLDFAST_PR_OUT("PREEMPT", 0x04),
    HOLDFAST_PR_OUT("PREEMPT AND ABORT", 0x05),
    HOLDFAST_PR_OUT("REGISTER AND IGNORE EXISTING KEY", 0x06),
    HOLDFAST_PR_OUT("REGISTER AND MOVE", 0x07),
#undef HOLDFAST_PR_OUT
    {"EXTENDED COPY(LID1)", 0x83, kSa, 0x00, 16, A::kWrite, kChanges, kReportsUa, 120, prepare_extended_copy,
     execute_extended_copy, {0x83, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
    {"RECEIVE COPY STATUS(LID1)", 0x84, kSa, 0x00, 16, A::kRead, kKeeps, kReportsUa, 10, prepare_nothing,
     execute_receive_copy_status, {0x84, 0x00, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
    {"RECEIVE COPY OPERATING PARAMETERS", 0x84, kSa, 0x03, 16, A::kRead, kKeeps, kReportsUa, 10, prepare_nothing,
     execute_receive_copy_parameters, {0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
    {"READ(16)", 0x88, kNoSa, 0, 16, A::kRead, kKeeps, kReportsUa, 60, prepare_read, execute_read,
     {0x88, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"COMPARE AND WRITE", 0x89, kNoSa, 0, 16, A::kWrite, kChanges, kReportsUa, 60, prepare_compare_and_write,
     execute_compare_and_write,
     {0x89, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x1f, 0x04}},
    {"WRITE(16)", 0x8a, kNoSa, 0, 16, A::kWrite, kChanges, kReportsUa, 60, prepare_write, execute_write,
     {0x8a, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"ORWRITE(16)", 0x8b, kNoSa, 0, 16, A::kWrite, kChanges, kReportsUa, 60, prepare_orwrite, execute_orwrite,
     {0x8b, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"WRITE AND VERIFY(16)", 0x8e, kNoSa, 0, 16, A::kWrite, kChanges, kReportsUa, 60, prepare_write_and_verify,
     execute_write_and_verify,
     {0x8e, 0xf6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"VERIFY(16)", 0x8f, kNoSa, 0, 16, A::kRead, kKeeps, kReportsUa, 60, prepare_verify, execute_verify,
     {0x8f, 0xf6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"PRE-FETCH(16)", 0x90, kNoSa, 0, 16, A::kRead, kKeeps, kReportsUa, 60, prepare_prefetch, execute_prefetch,
     {0x90, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"SYNCHRONIZE CACHE(16)", 0x91, kNoSa, 0, 16, A::kWrite, kKeeps, kReportsUa, 60, prepare_synchronize_cache,
     execute_synchronize_cache,
     {0x91, 0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"WRITE SAME(16)", 0x93, kNoSa, 0, 16, A::kWrite, kChanges, kReportsUa, 120, prepare_write_same, execute_write_same,
     {0x93, 0xf9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"READ CAPACITY(16)", 0x9e, kSa, 0x10, 16, A::kAlways, kKeeps, kReportsUa, 10, prepare_nothing,
     execute_read_capacity_16, {0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
    {"GET LBA STATUS", 0x9e, kSa, 0x12, 16, A::kRead, kKeeps, kReportsUa, 60, prepare_get_lba_status,
     execute_get_lba_status,
     {0x9e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
    {"REPORT LUNS", 0xa0, kNoSa, 0, 12, A::kAlways, kKeeps, kPassesUa, 10, prepare_nothing, execute_report_luns,
     {0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
    {"REPORT TARGET PORT GROUPS", 0xa3, kSa, 0x0a, 12, A::kAlways, kKeeps, kReportsUa, 10, prepare_nothing,
     execute_report_target_port_groups, {0xa3, 0xea, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
    {"REPORT SUPPORTED OPERATION CODES", 0xa3, kSa, 0x0c, 12, A::kAlways, kKeeps, kReportsUa, 10, prepare_nothing,
     execute_report_supported_opcodes, {0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
    {"REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", 0xa3, kSa, 0x0d, 12, A::kAlways, kKeeps, kReportsUa, 10,
     prepare_nothing, execute_report_supported_tmf, {0xa3, 0x0d, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
    {"READ(12)", 0xa8, kNoSa, 0, 12, A::kRead, kKeeps, kReportsUa, 60, prepare_read, execute_read,
     {0xa8, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"WRITE(12)", 0xaa, kNoSa, 0, 12, A::kWrite, kChanges, kReportsUa, 60, prepare_write, execute_write,
     {0xaa, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"WRITE AND VERIFY(12)", 0xae, kNoSa, 0, 12, A::kWrite, kChanges, kReportsUa, 60, prepare_write_and_verify,
     execute_write_and_verify, {0xae, 0xf6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"VERIFY(12)", 0xaf, kNoSa, 0, 12, A::kRead, kKeeps, kReportsUa, 60, prepare_verify, execute_verify,
     {0xaf, 0xf6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x04}},
    {"READ DEFECT DATA(12)", 0xb7, kNoSa, 0, 12, A::kAlways, kKeeps, kReportsUa, 10, prepare_nothing,
     execute_read_defect_data_12, {0xb7, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
};
// clang-format on

// First row of each operation code, or the table's size. Rows of one code stand together.
constexpr auto kFirstRow = [] {
  std::array<std::uint8_t, 256> first{};
  for (auto& row : first) row = std::size(kOperations);
  for (std::size_t i = std::size(kOperations); i-- > 0;) first[kOperations[i].opcode] = static_cast<std::uint8_t>(i);
  return first;
}();
static_assert(std::size(kOperations) < 255);

}  // namespace

std::span<const Operation> operations() { return kOperations; }

const Operation* find_operation(std::uint8_t opcode, std::uint8_t service_action, bool* opcode_known) {
  std::size_t row = kFirstRow[opcode];
  if (opcode_known) *opcode_known = row < std::size(kOperations);
  for (; row < std::size(kOperations) && kOperations[row].opcode == opcode; ++row) {
    if (!kOperations[row].has_service_action || kOperations[row].service_action == service_action) {
      return &kOperations[row];
    }
  }
  return nullptr;
}

}  // namespace holdfast::scsi
