#include "unit/io_support.hpp"

#include <braid/io/safetensors_file.hpp>

#include <random>

using namespace braid_test;
using code = braid::format_code;

namespace {

braid::detail::safetensors_header parse(std::string const& file) {
  std::vector<char> const exact(file.begin(), file.end());  // so that a sanitizer sees a step beyond the end
  return braid::detail::read_safetensors_header(std::as_bytes(std::span(exact)), "some.safetensors");
}

std::string entry(std::string const& name, std::string const& dtype, std::string const& shape,
                  std::string const& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

std::string const two_tensors =
    safetensors("{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"}," + entry("b", "BF16", "[2,2]", "[4,12]") + "," +
                    entry("a", "F32", "[]", "[0,4]") + "}   ",
                "0123456789ab");

}  // namespace

TEST_CASE("a header is read whatever the order of its entries, with spaces behind it") {
  auto const h = parse(two_tensors);
  REQUIRE(h.tensors.size() == 2);
  CHECK(h.tensors[0].name == "a");
  CHECK(h.tensors[0].type == braid::dtype::f32);
  CHECK(h.tensors[0].shape.empty());
  CHECK(h.tensors[0].elements() == 1);
  CHECK(h.tensors[1].name == "b");
  CHECK(h.tensors[1].shape == std::vector<braid::index_t>{2, 2});
  CHECK(h.tensors[1].elements() == 4);
  CHECK(h.tensors[1].offset == two_tensors.size() - 8);
  CHECK(h.metadata == std::map<std::string, std::string>{{"format", "pt"}, {"k", "v"}});
}

TEST_CASE("unusual but correct headers are read") {
  CHECK(parse(safetensors("{}")).tensors.empty());
  CHECK(parse(safetensors("{\"__metadata__\":{}}")).metadata.empty());
  auto const empty =
      parse(safetensors("{" + entry("z", "F32", "[0,5]", "[2,2]") + "," + entry("a", "U8", "[2]", "[0,2]") + "," +
                            entry("y", "I64", "[3,0]", "[0,0]") + "}",
                        "ab"));
  CHECK(empty.tensors.size() == 3);
  auto const escaped = parse(safetensors("{" + entry("\\u00e9\\n\xC3\xA9", "BOOL", "[1]", "[0,1]") + "}", "a"));
  CHECK(escaped.tensors[0].name == "\xC3\xA9\n\xC3\xA9");
}

TEST_CASE("every dtype of braid is read under its name") {
  for (auto const& row : braid::detail::dtype_table) {
    auto const size = std::to_string(row.size);
    auto const h = parse(safetensors("{" + entry("t", std::string(row.name), "[1]", "[0," + size + "]") + "}",
                                     std::string(row.size, 'x')));
    CHECK(h.tensors[0].type == row.type);
  }
}

TEST_CASE("a header that lies is refused with the code of its lie") {
  struct attack {
    code expected;
    std::string file;
  };
  std::string const good = entry("a", "U8", "[2]", "[0,2]");
  auto const one = [](std::string const& inside, std::string const& data = "xy") {
    return safetensors("{" + inside + "}", data);
  };
  std::string const huge_length("\x01\xe1\xf5\x05\0\0\0\0{}", 10);  // 100,000,001
  std::string const largest_length("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
  std::vector<attack> const attacks{
      {code::file_too_small, ""},
      {code::file_too_small, "1234567"},
      {code::header_too_large, huge_length},
      {code::header_too_large, largest_length},
      {code::header_beyond_file, safetensors("{}").substr(0, 9)},
      {code::header_start, safetensors("")},
      {code::header_start, safetensors(" {}")},
      {code::header_start, safetensors("[]")},
      {code::header_start, safetensors("\xEF\xBB\xBF{}")},
      {code::header_utf8, one(entry("\xff", "U8", "[2]", "[0,2]"))},
      {code::header_utf8, one(entry("\xC0\x80", "U8", "[2]", "[0,2]"))},          // overlong
      {code::header_utf8, one(entry("\xED\xA0\x80", "U8", "[2]", "[0,2]"))},      // a surrogate
      {code::header_utf8, one(entry("\xF4\x90\x80\x80", "U8", "[2]", "[0,2]"))},  // above U+10FFFF
      {code::header_utf8, safetensors("{\"\xE2\x82")},
      {code::header_json, safetensors("{")},
      {code::header_json, safetensors("{\"a\":")},
      {code::header_json, safetensors("{}x")},
      {code::header_json, safetensors("{}{}")},
      {code::header_json, safetensors("{\"\\ud800\":1}")},
      {code::header_json, safetensors(std::string("{}\0\0", 4))},
      {code::header_json, safetensors(std::string("{}\0{", 4))},
      {code::header_json, one(good + ",")},
      {code::header_json, one(entry("a", "U8", "[02]", "[0,2]"))},
      {code::header_depth, one(entry("a", "U8", "[[2]]", "[0,2]"))},
      {code::header_depth, one(entry("a", "U8", std::string(100000, '['), "[0,2]"))},
      {code::duplicate_tensor, one(good + "," + good)},
      {code::duplicate_tensor, one(good + "," + entry("\\u0061", "U8", "[2]", "[2,4]"), "wxyz")},
      {code::duplicate_field, one("\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]}")},
      {code::duplicate_field, one("\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"shape\":[2]}")},
      {code::duplicate_field, one("\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}", "")},
      {code::duplicate_field, one("\"__metadata__\":{},\"__metadata__\":{}", "")},
      {code::missing_field, one("\"a\":{}")},
      {code::missing_field, one("\"a\":{\"shape\":[2],\"data_offsets\":[0,2]}")},
      {code::missing_field, one("\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,2]}")},
      {code::missing_field, one("\"a\":{\"dtype\":\"U8\",\"shape\":[2]}")},
      {code::unknown_field, one("\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"strides\":[1]}")},
      {code::wrong_type, one("\"a\":1")},
      {code::wrong_type, one("\"a\":null")},
      {code::wrong_type, one("\"a\":[]")},
      {code::wrong_type, one("\"a\":\"U8\"")},
      {code::wrong_type, one("\"a\":{\"dtype\":1,\"shape\":[2],\"data_offsets\":[0,2]}")},
      {code::wrong_type, one("\"a\":{\"dtype\":[\"U8\"],\"shape\":[2],\"data_offsets\":[0,2]}")},
      {code::wrong_type, one(entry("a", "U8", "2", "[0,2]"))},
      {code::wrong_type, one(entry("a", "U8", "{}", "[0,2]"))},
      {code::wrong_type, one(entry("a", "U8", "\"2\"", "[0,2]"))},
      {code::wrong_type, one(entry("a", "U8", "[true]", "[0,2]"))},
      {code::wrong_type, one(entry("a", "U8", "[null]", "[0,2]"))},
      {code::wrong_type, one(entry("a", "U8", "[\"2\"]", "[0,2]"))},
      {code::wrong_type, one(entry("a", "U8", "[2]", "[]"))},
      {code::wrong_type, one(entry("a", "U8", "[2]", "[0]"))},
      {code::wrong_type, one(entry("a", "U8", "[2]", "[0,2,2]"))},
      {code::bad_number, one(entry("a", "U8", "[-2]", "[0,2]"))},
      {code::bad_number, one(entry("a", "U8", "[-0]", "[0,0]"), "")},
      {code::bad_number, one(entry("a", "U8", "[2.0]", "[0,2]"))},
      {code::bad_number, one(entry("a", "U8", "[2e0]", "[0,2]"))},
      {code::bad_number, one(entry("a", "U8", "[9223372036854775808]", "[0,2]"))},
      {code::bad_number, one(entry("a", "U8", "[2]", "[0,18446744073709551618]"))},
      {code::bad_number, one(entry("a", "U8", "[2]", "[-2,0]"))},
      {code::unknown_dtype, one(entry("a", "u8", "[2]", "[0,2]"))},
      {code::unknown_dtype, one(entry("a", "", "[2]", "[0,2]"))},
      {code::unsupported_dtype, one(entry("a", "F4", "[4]", "[0,2]"))},
      {code::unsupported_dtype, one(entry("a", "F6_E2M3", "[4]", "[0,3]"))},
      {code::unsupported_dtype, one(entry("a", "C64", "[1]", "[0,8]"))},
      {code::too_many_dimensions, one(entry(
                                          "a", "U8",
                                          [] {
                                            std::string s = "[1";
                                            for (int i = 0; i < 64; ++i) { s += ",1"; }
                                            return s + "]";
                                          }(),
                                          "[0,1]"),
                                      "x")},
      {code::size_overflow, one(entry("a", "U8", "[4294967296,4294967296]", "[0,2]"))},
      {code::size_overflow, one(entry("a", "F64", "[1152921504606846976]", "[0,0]"), "")},
      {code::size_overflow, one(entry("a", "U8", "[4294967296,4294967296,0]", "[0,0]"), "")},
      {code::reversed_offsets, one(entry("a", "U8", "[2]", "[2,0]"))},
      {code::size_mismatch, one(entry("a", "F32", "[2]", "[0,2]"))},
      {code::size_mismatch, one(entry("a", "U8", "[3]", "[0,2]"))},
      {code::size_mismatch, one(entry("a", "U8", "[0]", "[0,2]"))},
      {code::hole, one(entry("a", "U8", "[1]", "[1,2]"))},
      {code::hole, one(entry("a", "U8", "[1]", "[0,1]") + "," + entry("b", "U8", "[1]", "[2,3]"), "xyz")},
      {code::overlap, one(entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[1,3]"), "xyz")},
      {code::overlap, one(entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[0,2]"))},
      {code::overlap, one(entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[0]", "[1,1]"))},
      {code::truncated, one(good, "x")},
      {code::truncated, one(entry("a", "U8", "[4611686018427387904]", "[0,4611686018427387904]"))},
      {code::trailing_bytes, one(good, "xyz")},
      {code::trailing_bytes, safetensors("{}", "x")},
      {code::metadata_not_strings, one("\"__metadata__\":null", "")},
      {code::metadata_not_strings, one("\"__metadata__\":\"pt\"", "")},
      {code::metadata_not_strings, one("\"__metadata__\":[]", "")},
      {code::metadata_not_strings, one("\"__metadata__\":{\"k\":1}", "")},
      {code::metadata_not_strings, one("\"__metadata__\":{\"k\":-1.5}", "")},
      {code::metadata_not_strings, one("\"__metadata__\":{\"k\":{}}", "")},
      {code::metadata_not_strings, one("\"__metadata__\":{\"k\":null}", "")},
  };
  for (auto const& a : attacks) {
    INFO(a.file.substr(0, 200));
    CHECK(code_of([&] { parse(a.file); }) == number(a.expected));
  }
}

TEST_CASE("a file cut after any of its bytes is refused") {
  for (std::size_t size = 0; size < two_tensors.size(); ++size) {
    int const c = code_of([&] { parse(two_tensors.substr(0, size)); });
    INFO(size);
    CHECK(c == number(size < 8                         ? code::file_too_small
                      : size < two_tensors.size() - 12 ? code::header_beyond_file
                                                       : code::truncated));
  }
}

TEST_CASE("a cut file on disk says its path and how many bytes are missing") {
  temp_dir t;
  auto const path = t.path() / "cut.safetensors";
  put_file(path, two_tensors.substr(0, two_tensors.size() - 3));
  auto const message = message_of([&] { braid::safetensors_file{path}; });
  CHECK(contains(message, path.string()));
  CHECK(contains(message, "3 of 12 bytes of tensor data are missing"));
  CHECK(contains(message, "[format error 122]"));
}

TEST_CASE("messages show names from files on one line, and cut long ones") {
  auto const long_name = std::string(500, 'n');
  auto const m = message_of([&] { parse(safetensors("{" + entry("a\\n\\u0000b", "U9", "[2]", "[0,2]") + "}", "xy")); });
  CHECK(contains(m, "\"a\\x0a\\x00b\""));
  auto const n = message_of([&] { parse(safetensors("{" + entry(long_name, "U9", "[2]", "[0,2]") + "}", "xy")); });
  CHECK(n.size() < 300);
}

TEST_CASE("a header with random damage is refused or opens, and what opens is consistent") {
  std::mt19937_64 random(20240601);
  std::string const original =
      safetensors("{\"__metadata__\":{\"format\":\"pt\"}," + entry("b", "BF16", "[2,2]", "[4,12]") + "," +
                      entry("a", "F32", "[1]", "[0,4]") + "," + entry("c", "U8", "[0,7]", "[12,12]") + "}",
                  "0123456789ab");
  std::size_t const head = original.size() - 12;
  std::string const likely = "{}[]\",:0123456789-+.eE\\ \xff";
  int opened = 0;
  for (int i = 0; i < 6000; ++i) {
    std::string file = original;
    for (auto n = random() % 3 + 1; n != 0; --n) {
      std::size_t const at = random() % head;
      switch (random() % 5) {
        case 0: file[at] = static_cast<char>(static_cast<unsigned char>(random() & 0xFFu)); break;
        case 1: file[at] = static_cast<char>(static_cast<unsigned char>(file[at]) ^ (1u << (random() % 8))); break;
        case 2: file.insert(at, 1, likely[random() % likely.size()]); break;
        case 3: file.erase(at, 1); break;
        default: file[at] = likely[random() % likely.size()]; break;
      }
    }
    try {
      auto const h = parse(file);
      ++opened;
      std::uint64_t sum = 0;
      for (auto const& t : h.tensors) {
        sum += t.bytes;
        REQUIRE(t.offset + t.bytes <= file.size());
        REQUIRE(t.bytes == static_cast<std::uint64_t>(t.elements()) * braid::size_of(t.type));
      }
      REQUIRE(sum <= file.size());
    } catch (braid::format_error const& e) {
      REQUIRE(e.code() > 100);
      REQUIRE(e.code() < 200);
    }
  }
  CHECK(opened > 0);
}

TEST_CASE("what isn't a readable file is an io_error with path and reason") {
  temp_dir t;
  auto const descriptors = open_descriptors();
  CHECK_THROWS_AS(braid::safetensors_file(t.path()), braid::io_error);
  auto const m = message_of([&] { braid::safetensors_file{t.path() / "missing.safetensors"}; });
  CHECK(contains(m, "missing.safetensors: open failed: No such file or directory"));
  put_file(t.path() / "empty.safetensors", "");
  CHECK(code_of([&] { braid::safetensors_file{t.path() / "empty.safetensors"}; }) == number(code::file_too_small));
  CHECK(open_descriptors() == descriptors);
}

TEST_CASE("a mapped tensor keeps its bytes when its pages are released and the file object moves") {
  temp_dir t;
  std::string data(100000, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) { data[i] = static_cast<char>(i % 127); }
  put_file(t.path() / "m.safetensors", safetensors("{" + entry("a", "U8", "[100000]", "[0,100000]") + "}", data));
  braid::safetensors_file first(t.path() / "m.safetensors");
  braid::safetensors_file const f = std::move(first);
  auto const& meta = f.tensors().at(0);
  auto const same = [&] {
    auto const b = f.bytes(meta);
    return b.size() == data.size() && std::equal(b.begin(), b.end(), std::as_bytes(std::span(data)).begin());
  };
  CHECK(same());
  f.release(meta, 0, meta.bytes);
  f.release(meta, 1234, 50000);
  f.release(meta, meta.bytes, 1);
  f.release(meta, 99999, ~std::uint64_t{0});
  CHECK(same());
  auto foreign = meta;
  foreign.bytes += 1;
  CHECK_THROWS_AS(f.bytes(foreign), braid::argument_error);
  foreign.offset = ~std::uint64_t{0};
  CHECK_THROWS_AS(f.bytes(foreign), braid::argument_error);
}
