// The functions that operations.cc puts into the table: prepare_X checks a CDB, execute_X does the work.
#pragma once

#include "iscsi/scsi/command.h"

namespace holdfast::scsi {

class LogicalUnit;

bool prepare_nothing(LogicalUnit& unit, Command& command);

// primary_commands.cc
void execute_test_unit_ready(LogicalUnit& unit, Command& command);
void execute_request_sense(LogicalUnit& unit, Command& command);
void execute_report_luns(LogicalUnit& unit, Command& command);
void execute_send_diagnostic(LogicalUnit& unit, Command& command);
bool prepare_start_stop(LogicalUnit& unit, Command& command);
void execute_start_stop(LogicalUnit& unit, Command& command);
void execute_prevent_allow(LogicalUnit& unit, Command& command);
void execute_report_target_port_groups(LogicalUnit& unit, Command& command);
void execute_report_supported_opcodes(LogicalUnit& unit, Command& command);
void execute_report_supported_tmf(LogicalUnit& unit, Command& command);

// inquiry.cc
void execute_inquiry(LogicalUnit& unit, Command& command);

// mode_pages.cc
void execute_mode_sense(LogicalUnit& unit, Command& command);
bool prepare_mode_select(LogicalUnit& unit, Command& command);
void execute_mode_select(LogicalUnit& unit, Command& command);

// block_commands.cc
bool prepare_read(LogicalUnit& unit, Command& command);
void execute_read(LogicalUnit& unit, Command& command);
bool prepare_write(LogicalUnit& unit, Command& command);
void execute_write(LogicalUnit& unit, Command& command);
bool prepare_synchronize_cache(LogicalUnit& unit, Command& command);
void execute_synchronize_cache(LogicalUnit& unit, Command& command);
bool prepare_prefetch(LogicalUnit& unit, Command& command);
void execute_prefetch(LogicalUnit& unit, Command& command);
void execute_read_capacity_10(LogicalUnit& unit, Command& command);
void execute_read_capacity_16(LogicalUnit& unit, Command& command);
bool prepare_get_lba_status(LogicalUnit& unit, Command& command);
void execute_get_lba_status(LogicalUnit& unit, Command& command);
void execute_read_defect_data_10(LogicalUnit& unit, Command& command);
void execute_read_defect_data_12(LogicalUnit& unit, Command& command);

// verify_commands.cc
bool prepare_verify(LogicalUnit& unit, Command& command);
void execute_verify(LogicalUnit& unit, Command& command);
bool prepare_write_and_verify(LogicalUnit& unit, Command& command);
void execute_write_and_verify(LogicalUnit& unit, Command& command);
bool prepare_compare_and_write(LogicalUnit& unit, Command& command);
void execute_compare_and_write(LogicalUnit& unit, Command& command);
bool prepare_orwrite(LogicalUnit& unit, Command& command);
void execute_orwrite(LogicalUnit& unit, Command& command);

// thin_commands.cc
bool prepare_unmap(LogicalUnit& unit, Command& command);
void execute_unmap(LogicalUnit& unit, Command& command);
bool prepare_write_same(LogicalUnit& unit, Command& command);
void execute_write_same(LogicalUnit& unit, Command& command);

// reservation_commands.cc
void execute_reserve6(LogicalUnit& unit, Command& command);
void execute_release6(LogicalUnit& unit, Command& command);
void execute_persistent_reserve_in(LogicalUnit& unit, Command& command);
bool prepare_persistent_reserve_out(LogicalUnit& unit, Command& command);
void execute_persistent_reserve_out(LogicalUnit& unit, Command& command);

// copy_commands.cc
bool prepare_extended_copy(LogicalUnit& unit, Command& command);
void execute_extended_copy(LogicalUnit& unit, Command& command);
void execute_receive_copy_status(LogicalUnit& unit, Command& command);
void execute_receive_copy_parameters(LogicalUnit& unit, Command& command);

}  // namespace holdfast::scsi
