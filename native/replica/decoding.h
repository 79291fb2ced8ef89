// What the decoders of messages.h share. protozero reports malformed input by exceptions, so they alone (with
// messages_encode.cc) are compiled with them (CMakeLists.txt). guarded() is the only place that catches, and none gets
// past it. Pure functions, any thread.
#pragma once

#include <protozero/exception.hpp>
#include <protozero/pbf_reader.hpp>
#include <string>

#include "replica/messages.h"
#include "replica/wire_fields.h"

namespace holdfast::replica {

using namespace fields;  // NOLINT: only numbers
using protozero::data_view;
using protozero::pbf_reader;

constexpr std::uint32_t varint(Tag tag) { return protozero::tag_and_type(tag, protozero::pbf_wire_type::varint); }
constexpr std::uint32_t fixed(Tag tag) { return protozero::tag_and_type(tag, protozero::pbf_wire_type::fixed64); }
constexpr std::uint32_t bytes(Tag tag) {
  return protozero::tag_and_type(tag, protozero::pbf_wire_type::length_delimited);
}

// Runs `body(reader)`, which returns a Status, and turns protozero's exceptions into PROTOCOL.
template <typename Body>
Status guarded(const Slice& message, const char* name, Body body) noexcept {
  try {
    return body(pbf_reader(reinterpret_cast<const char*>(message.data()), message.size()));
  } catch (const protozero::exception& problem) {
    return Error(ErrorCode::kProtocol, std::string("malformed ") + name + " message: " + problem.what());
  }
}

// Calls `field(reader)` for each field; it returns whether it took the value.
template <typename Field>
Status each_field(pbf_reader reader, Field field) {
  while (reader.next()) {
    if (!field(reader)) reader.skip();
  }
  return Status();
}

// messages_decode_chunks.cc
DamagedChunk damaged_chunk(pbf_reader reader);

}  // namespace holdfast::replica
