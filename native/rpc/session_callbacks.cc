// Users' callbacks may destroy calls, the channel or the server in here. The Connection outlives the call into nghttp2;
// every function that may have run user code therefore looks at closed() before it goes on, and stops nghttp2.
#include "rpc/session_callbacks.h"

#include "rpc/connection.h"

namespace holdfast::rpc {

struct SessionCallbacks {
  static Connection& connection_of(void* user_data) { return *static_cast<Connection*>(user_data); }

  static CallStream* stream_of(nghttp2_session* session, std::int32_t id) {
    return static_cast<CallStream*>(nghttp2_session_get_stream_user_data(session, id));
  }

  static int proceed(const Connection& connection) { return connection.closed_ ? NGHTTP2_ERR_CALLBACK_FAILURE : 0; }

  static int flooded(Connection& connection) {
    connection.flooded_ = true;
    return NGHTTP2_ERR_CALLBACK_FAILURE;
  }

  static int on_begin_frame(nghttp2_session*, const nghttp2_frame_hd* header, void* user_data) {
    Connection& connection = connection_of(user_data);
    bool payload = header->type == NGHTTP2_DATA && (header->flags & NGHTTP2_FLAG_PADDED) == 0;
    connection.frame_left_ = payload ? header->length : 0;
    connection.frame_stream_ = header->stream_id;
    bool costs = true;
    switch (header->type) {
      case NGHTTP2_DATA:
        costs = header->length == 0 && (header->flags & NGHTTP2_FLAG_END_STREAM) == 0;
        break;
      case NGHTTP2_HEADERS:
      case NGHTTP2_WINDOW_UPDATE:
        costs = false;
        break;
      case NGHTTP2_PING:
      case NGHTTP2_SETTINGS:
        costs = (header->flags & NGHTTP2_FLAG_ACK) == 0;
        break;
      default:
        break;
    }
    if (costs && !connection.flood_.take(connection.last_heard_)) return flooded(connection);
    return 0;
  }

  static int on_invalid_frame(nghttp2_session*, const nghttp2_frame*, int, void* user_data) {
    Connection& connection = connection_of(user_data);
    return connection.flood_.take(connection.last_heard_, 10) ? 0 : flooded(connection);
  }

  static int on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) {
    Connection& connection = connection_of(user_data);
    CallStream* stream = stream_of(session, frame->hd.stream_id);
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST && stream == nullptr) {
      auto created = std::make_unique<ServerStream>(connection.env_);
      stream = created.get();
      stream->attach(connection, frame->hd.stream_id);
      connection.calls_.push_back(std::move(created));
      stream->join(connection.calls_, std::prev(connection.calls_.end()));
      nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, stream);
    }
    if (stream != nullptr) stream->begin_headers();
    return 0;
  }

  static int on_header(nghttp2_session* session, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t,
                       void* user_data) {
    CallStream* stream = stream_of(session, frame->hd.stream_id);
    if (stream == nullptr || stream->headers() == nullptr) return 0;
    stream->headers()->add({reinterpret_cast<const char*>(name), name_size},
                           {reinterpret_cast<const char*>(value), value_size});
    // A list a little too long gets a status; one that goes on and on is an attack by compression.
    if (stream->headers()->bytes() > 16 * kHeaderBytesMax) return flooded(connection_of(user_data));
    return 0;
  }

  static int on_frame_received(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) {
    Connection& connection = connection_of(user_data);
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
      case NGHTTP2_DATA: {
        CallStream* stream = stream_of(session, frame->hd.stream_id);
        if (stream == nullptr) return 0;
        if (frame->hd.type == NGHTTP2_HEADERS && stream->headers() != nullptr) stream->on_headers();
        if (connection.closed_) return NGHTTP2_ERR_CALLBACK_FAILURE;
        if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) stream->on_peer_end();
        return proceed(connection);
      }
      case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0) connection.on_ping_answer(frame->ping.opaque_data);
        return 0;
      case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0) connection.on_settings_answer();
        return 0;
      case NGHTTP2_GOAWAY:
        connection.on_goaway(frame->goaway);
        return 0;
      default:
        return 0;
    }
  }

  static int on_data_chunk(nghttp2_session* session, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                           std::size_t size, void* user_data) {
    Connection& connection = connection_of(user_data);
    connection.frame_left_ -= std::min(size, connection.frame_left_);
    if (CallStream* stream = stream_of(session, id)) {
      stream->on_data({reinterpret_cast<const std::byte*>(data), size});
    } else {
      nghttp2_session_consume(session, id, size);
    }
    return proceed(connection);
  }

  static int on_stream_close(nghttp2_session* session, std::int32_t id, std::uint32_t error, void* user_data) {
    Connection& connection = connection_of(user_data);
    CallStream* stream = stream_of(session, id);
    if (stream == nullptr) return 0;
    stream->on_closed(error);
    if (connection.closed_) return NGHTTP2_ERR_CALLBACK_FAILURE;
    nghttp2_session_set_stream_user_data(session, id, nullptr);
    connection.forget(*stream);
    if (connection.draining_ && connection.calls_.empty()) connection.schedule_flush();
    return 0;
  }

  static int on_frame_sent(nghttp2_session* session, const nghttp2_frame* frame, void*) {
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return 0;
    if (frame->hd.type != NGHTTP2_HEADERS || nghttp2_session_check_server_session(session) == 0) return 0;
    // The client's half would stay open if it never finished; what it still sends is of no use.
    auto* stream = static_cast<ServerStream*>(stream_of(session, frame->hd.stream_id));
    if (stream != nullptr && !stream->peer_ended()) {
      nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    }
    return 0;
  }

  static ssize_t data_frame_size(nghttp2_session*, std::uint8_t, std::int32_t, std::int32_t connection_window,
                                 std::int32_t stream_window, std::uint32_t frame_size_max, void*) {
    std::int64_t size = std::min<std::int64_t>(connection_window, stream_window);
    return static_cast<ssize_t>(std::min<std::int64_t>({size, frame_size_max, kFrameBytesMax}));
  }

  static int send_data(nghttp2_session*, nghttp2_frame* frame, const std::uint8_t* header, std::size_t length,
                       nghttp2_data_source* source, void* user_data) {
    Connection& connection = connection_of(user_data);
    if (!connection.may_pull()) return NGHTTP2_ERR_WOULDBLOCK;
    auto* stream = static_cast<CallStream*>(source->ptr);
    if (!stream->has_payload(length)) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // cancelled since
    connection.writer_.append_copy({reinterpret_cast<const std::byte*>(header), kFrameHeaderBytes});
    stream->write_payload(length, connection.writer_);
    return 0;
  }

  static constexpr std::size_t kFrameHeaderBytes = 9;
};

const nghttp2_session_callbacks* session_callbacks() {
  static const nghttp2_session_callbacks* shared = [] {
    nghttp2_session_callbacks* made = nullptr;
    CHECK(nghttp2_session_callbacks_new(&made) == 0, "out of memory");
    nghttp2_session_callbacks_set_on_begin_frame_callback(made, SessionCallbacks::on_begin_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(made, SessionCallbacks::on_invalid_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(made, SessionCallbacks::on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(made, SessionCallbacks::on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(made, SessionCallbacks::on_frame_received);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, SessionCallbacks::on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(made, SessionCallbacks::on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(made, SessionCallbacks::on_frame_sent);
    nghttp2_session_callbacks_set_data_source_read_length_callback(made, SessionCallbacks::data_frame_size);
    nghttp2_session_callbacks_set_send_data_callback(made, SessionCallbacks::send_data);
    return made;
  }();
  return shared;
}

}  // namespace holdfast::rpc
