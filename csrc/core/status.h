// What a kernel returns. The library never throws, prints or aborts; module.cpp turns a Status into an exception, once.
#pragma once

namespace pykernels {

enum class Status { ok, interrupted, workspace_too_small, unknown_variant, unsupported_cpu };

static inline const char* status_text(Status status) {
  switch (status) {
    case Status::ok: return "ok";
    case Status::interrupted: return "interrupted";
    case Status::workspace_too_small: return "the workspace is smaller than mixture_workspace() asks for";
    case Status::unknown_variant: return "no variant of that name was compiled";
    case Status::unsupported_cpu: return "this CPU lacks the instructions of that variant";
  }
  return "unknown status";
}

}  // namespace pykernels
