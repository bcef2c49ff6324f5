// What the host and the CUDA handlers share: export, base64, and the gathering of buffers.
#ifndef JAX_CUBIE_FFI_COMMON_H_
#define JAX_CUBIE_FFI_COMMON_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "xla/ffi/api/ffi.h"

// XLA_FFI_DEFINE_HANDLER_SYMBOL sets no visibility: a declaration with this in front does.
#define JAX_CUBIE_EXPORT extern "C" __attribute__((visibility("default")))

namespace jax_cubie {

namespace ffi = xla::ffi;

// The symbol that every image exports.
constexpr const char* kEntrySymbol = "jax_cubie_entry";

constexpr size_t kKeySize = 64;

inline ffi::Error InvalidArgument(std::string message) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "jax_cubie: " + message);
}

// The first characters of the content hash, enough to recognise an image by.
inline std::string ShortKey(std::string_view key) { return std::string(key.substr(0, 12)); }

// Strict base64: padded, with no white space. Returns false, and why, for anything else.
inline bool DecodeBase64(std::string_view text, std::string* bytes, std::string* why) {
  auto value = [](char c) -> int {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+') return 62;
    if (c == '/') return 63;
    return -1;
  };
  if (text.size() % 4 != 0) {
    *why = "its length " + std::to_string(text.size()) + " is not a multiple of 4";
    return false;
  }
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  bytes->clear();
  bytes->reserve(text.size() / 4 * 3);
  for (size_t i = 0; i < text.size(); i += 4) {
    uint32_t word = 0;
    for (size_t j = i; j < i + 4; ++j) {
      int bits = j >= text.size() - padding ? 0 : value(text[j]);
      if (bits < 0) {
        *why = "character " + std::to_string(j) + " is not of the base64 alphabet";
        return false;
      }
      word = word << 6 | static_cast<uint32_t>(bits);
    }
    bytes->push_back(static_cast<char>(word >> 16));
    bytes->push_back(static_cast<char>(word >> 8 & 0xff));
    bytes->push_back(static_cast<char>(word & 0xff));
  }
  bytes->resize(bytes->size() - padding);
  return true;
}

inline ffi::Error DecodeImage(std::string_view key, std::string_view image, std::string* bytes) {
  if (key.size() != kKeySize) {
    return InvalidArgument("the image's key has " + std::to_string(key.size()) + " characters; a key is " +
                           std::to_string(kKeySize) + " hex digits");
  }
  std::string why;
  if (!DecodeBase64(image, bytes, &why)) {
    return InvalidArgument("the image " + ShortKey(key) + " is damaged: it is not valid base64: " + why);
  }
  return ffi::Error::Success();
}

// A launch's lanes, as `batch` tells where they are read: the number of operands in front that are there for a
// partitioner alone and no business of the kernel's, then for each level of the batch, innermost first, an operand and
// which of its dimensions is the level's. No attribute holds a size, since the call may have been split over devices:
// then the buffers are one device's share.
//
// The last operands fill results before the launch: of each, `filled` has the number of its result. The kernel is handed
// the results alone.
struct Lanes {
  size_t unread = 0;
  size_t filling = 0;
  int64_t count = 1;
  std::vector<int64_t> words;  // the count and each level's size, as an entry takes them; nothing without levels
};

inline ffi::Error CountLanes(const ffi::RemainingArgs& operands, ffi::Span<const int64_t> batch,
                             ffi::Span<const int64_t> filled, Lanes* lanes) {
  lanes->filling = filled.size();
  const int64_t unread = batch.size() == 0 ? 0 : batch[0];
  if (unread >= 0 && filled.size() + static_cast<size_t>(unread) > operands.size()) {
    return InvalidArgument(std::to_string(filled.size()) + " results are to be filled, and there are " +
                           std::to_string(operands.size()) + " operands, of which the kernel reads none of the first " +
                           std::to_string(unread));
  }
  if (batch.size() == 0) return ffi::Error::Success();
  if (batch.size() % 2 == 0 || batch[0] < 0 || static_cast<size_t>(batch[0]) > operands.size()) {
    return InvalidArgument("a batch is a number of operands, then pairs of an operand and a dimension; got " +
                           std::to_string(batch.size()) + " numbers, the first " + std::to_string(batch[0]));
  }
  lanes->unread = static_cast<size_t>(batch[0]);
  for (size_t i = 1; i < batch.size(); i += 2) {
    auto buffer = operands.get<ffi::AnyBuffer>(static_cast<size_t>(batch[i]));
    if (!buffer.has_value()) return buffer.error();
    if (batch[i + 1] < 0 || static_cast<size_t>(batch[i + 1]) >= buffer->dimensions().size()) {
      return InvalidArgument("a level of the batch is dimension " + std::to_string(batch[i + 1]) + " of operand " +
                             std::to_string(batch[i]) + ", which has " +
                             std::to_string(buffer->dimensions().size()));
    }
    lanes->words.push_back(buffer->dimensions()[batch[i + 1]]);
    lanes->count *= lanes->words.back();
  }
  lanes->words.insert(lanes->words.begin(), lanes->count);
  return ffi::Error::Success();
}

// Gives each result that is to be filled its contents, by `copy(result, operand, bytes)`, which answers with an error. XLA
// made one buffer of the two where it could: as a rule not where it has split the call over devices.
template <typename Copy>
ffi::Error FillResults(const ffi::RemainingArgs& operands, const ffi::RemainingRets& results,
                       ffi::Span<const int64_t> filled, Copy&& copy) {
  for (size_t i = 0; i < filled.size(); ++i) {
    auto operand = operands.get<ffi::AnyBuffer>(operands.size() - filled.size() + i);
    auto result = results.get<ffi::AnyBuffer>(static_cast<size_t>(filled[i]));
    if (!operand.has_value()) return operand.error();
    if (!result.has_value()) return result.error();
    const size_t bytes = operand->size_bytes();
    if (bytes != (*result)->size_bytes()) {
      return InvalidArgument("result " + std::to_string(filled[i]) + " has " + std::to_string((*result)->size_bytes()) +
                             " bytes, and what is to fill it " + std::to_string(bytes));
    }
    void* to = (*result)->untyped_data();
    if (bytes == 0 || to == operand->untyped_data()) continue;
    if (ffi::Error error = copy(to, operand->untyped_data(), bytes); error.failure()) return error;
  }
  return ffi::Error::Success();
}

// [operand pointers..., result pointers..., lanes..., words...], one 64-bit slot each: what every entry takes.
inline ffi::Error GatherArguments(const ffi::RemainingArgs& operands, const ffi::RemainingRets& results,
                                  const Lanes& lanes, ffi::Span<const int64_t> words,
                                  std::vector<int64_t>* arguments) {
  arguments->clear();
  arguments->reserve(operands.size() + results.size() + lanes.words.size() + words.size());
  for (size_t i = lanes.unread; i + lanes.filling < operands.size(); ++i) {
    auto buffer = operands.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return buffer.error();
    arguments->push_back(static_cast<int64_t>(reinterpret_cast<intptr_t>(buffer->untyped_data())));
  }
  for (size_t i = 0; i < results.size(); ++i) {
    auto buffer = results.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return buffer.error();
    arguments->push_back(static_cast<int64_t>(reinterpret_cast<intptr_t>((*buffer)->untyped_data())));
  }
  arguments->insert(arguments->end(), lanes.words.begin(), lanes.words.end());
  arguments->insert(arguments->end(), words.begin(), words.end());
  return ffi::Error::Success();
}

}  // namespace jax_cubie

#endif  // JAX_CUBIE_FFI_COMMON_H_
