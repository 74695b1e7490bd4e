// What a kernel returns. The library never throws, prints or aborts; module.cpp turns a Status into an
// exception, once.
#pragma once

namespace pykernels {

enum class Status {
  ok,
  interrupted,
  workspace_too_small,
  unknown_variant,
  unsupported_cpu,
  launch_failed,
  batch_too_large,
  too_many_dims,
  too_many_panels
};

// What CUDA said of this thread's last launch that failed.
inline thread_local const char* launch_problem = "";

static inline const char* status_text(Status status) {
  switch (status) {
    case Status::ok: return "ok";
    case Status::interrupted: return "interrupted";
    case Status::workspace_too_small: return "the workspace is smaller than the variant asks for";
    case Status::unknown_variant: return "no variant of that name was compiled";
    case Status::unsupported_cpu:
      return "this machine lacks the instructions, or the device, of that variant";
    case Status::batch_too_large: return "a GPU takes at most 4294967295 batch elements in one call";
    case Status::too_many_dims: return "a GPU takes at most 4194240 dimensions";
    case Status::too_many_panels: return "points that several processes hold reach over too many panels";
    case Status::launch_failed: return launch_problem;
  }
  return "unknown status";
}

}  // namespace pykernels
