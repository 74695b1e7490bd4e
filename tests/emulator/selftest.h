// What the emulator is tried on: launches, each with whether its results were right.
#pragma once

struct Scenario {
  const char* name;
  bool (*is_right)();
};

extern const Scenario kMistakes[];
extern const int kMistakeCount;
