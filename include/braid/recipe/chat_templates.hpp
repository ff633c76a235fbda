#pragma once

/// Chat templates that recipes may name, in Jinja, for tokenizers that bring none.

#include <braid/config.hpp>

#include <array>
#include <string_view>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// The template of that name; empty where there is none.
[[nodiscard]] constexpr std::string_view chat_template(std::string_view name) noexcept {
  struct entry {
    std::string_view name;
    std::string_view jinja;
  };
  constexpr auto known = std::to_array<entry>({
      {"alpaca",
       "{% for message in messages %}"
       "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
       "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
       "{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}"
       "{% endif %}{% endfor %}"
       "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"},
      {"chatml",
       "{% for message in messages %}"
       "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
       "{% endfor %}"
       "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"},
      {"exaone",
       "{% for message in messages %}"
       "{% if loop.first and message['role'] != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}"
       "{{ '[|' + message['role'] + '|]' + message['content'] }}"
       "{% if message['role'] == 'user' %}{{ '\\n' }}{% else %}{{ '[|endofturn|]\\n' }}{% endif %}"
       "{% endfor %}"
       "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"},
      {"llama3",
       "{{ bos_token }}{% for message in messages %}"
       "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}"
       "{% endfor %}"
       "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"},
      {"mistral",
       "{{ bos_token }}{% for message in messages %}"
       "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
       "{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}"
       "{% endfor %}"},
  });
  for (entry const& e : known) {
    if (e.name == name) { return e.jinja; }
  }
  return {};
}

}  // namespace recipe
BRAID_NAMESPACE_END
